// Package heap lets a process with little in memory collect garbage less often.
//
// Go collects when as much has been allocated as was live after the last time. With a few
// megabytes live that is many times a second under load, and a fifth of the processor time
// of a group's events was spent so. With a floor, garbage may be that much at least.
package heap

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// floor is the garbage that may lie in memory, in bytes, before it is collected.
	floor = 32 << 20

	// usual is Go's GOGC: garbage in percent of what is live.
	usual = 100

	// least is the heap that Go does not collect with the usual percentage, in bytes.
	least = 4 << 20
)

// Keep sets the floor. environment is the value of the variable GOGC: with one the operator
// has decided, and nothing changes. A memory limit (GOMEMLIMIT) goes before. A process calls
// Keep once, before it does anything else.
func Keep(environment string) {
	if environment != "" {
		return
	}
	debug.SetGCPercent(percent(least))
	watch(percent(least))
}

// percent is the one at which garbage reaches the floor.
func percent(live uint64) int { return int(max(usual, floor*100/max(live, least))) }

// watch sets the percentage again after the next collection, if enough has changed since.
func watch(set int) {
	runtime.AddCleanup(new([16]byte), func(set int) {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(live)
		if want := percent(live[0].Value.Uint64()); want < set*9/10 || want > set*11/10 {
			set = want
			debug.SetGCPercent(set)
		}
		watch(set)
	}, set)
}
