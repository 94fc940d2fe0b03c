// Package procs shares out the processors that Go runs goroutines on, the Ps.
//
// The goroutines of the sweep do hardly anything but write. A system call made in the
// usual way costs them twice: it is announced to the scheduler, and the P is taken away
// while the kernel works, so that the goroutine has to look for one afterwards. They keep
// their P instead (ws.Conn.WriteFast). That must leave a P for everything else, or who
// waits for the network is looked at every 10 ms only: so there are more Ps than cores,
// and the kernel shares the cores between their threads.
package procs

import (
	"runtime"
	"strconv"
	"sync/atomic"
)

// extra is the number of Ps above those that work is shared between.
const extra = 2

var spared atomic.Bool

// Spare adds Ps that Workers does not count. environment is the value of the variable
// GOMAXPROCS: with a number in it the operator has decided, and nothing changes. A process
// calls it once, before it does anything else. From then on Go does not follow a CPU limit
// that changes.
func Spare(environment string) {
	if n, err := strconv.Atoi(environment); err == nil && n > 0 {
		return
	}
	if !spared.Swap(true) {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + extra)
	}
}

// Spared says whether there are Ps for everything else while Workers goroutines keep
// theirs.
func Spared() bool { return spared.Load() }

// Workers is the number of goroutines that share heavy work: one for each core, or fewer
// if the process may use fewer.
func Workers() int {
	n := runtime.GOMAXPROCS(0)
	if spared.Load() {
		n = max(1, n-extra)
	}
	return n
}
