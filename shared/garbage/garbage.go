// Package garbage decides how often a process collects its garbage, and gives memory back to
// the kernel when it is calm.
//
// Go collects when twice as much is there as was alive, and a tenth. Of a process that has few
// sockets and many events little is alive: it would collect ten times a second, and that is a
// fifth of its work. So it may let more lie while that goes on. And Go keeps what a burst of
// handshakes or events has used. Where sockets mostly wait, that is memory which nobody uses
// for as long as they do.
package garbage

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	every = time.Second

	// calmBytes is what a calm process allocates at most from one look to the next.
	calmBytes = 1 << 20

	// A process that holds less than that, and less than a part of what is alive, without need
	// is left alone.
	leastSpare = 1 << 20
	sparePart  = 8

	// pause is the least time between two times: each costs a collection of garbage.
	pause = 10 * time.Second
)

// names of what is read, in the order of heap's fields
var names = [...]string{"/gc/heap/allocs:bytes", "/gc/heap/live:bytes", "/memory/classes/heap/objects:bytes", "/memory/classes/heap/free:bytes"}

// heap is the process's memory, in bytes.
type heap struct {
	allocated uint64 // since the process began
	live      uint64 // when garbage was collected last
	objects   uint64 // live and garbage
	free      uint64 // not used, and not given back
}

func read() heap {
	var list [len(names)]metrics.Sample
	for i, name := range names {
		list[i].Name = name
	}
	metrics.Read(list[:])
	return heap{list[0].Value.Uint64(), list[1].Value.Uint64(), list[2].Value.Uint64(), list[3].Value.Uint64()}
}

// spare is what could be given back.
func (h heap) spare() uint64 { return h.free + h.objects - min(h.objects, h.live) }

// trimmer decides when. Times are since some beginning.
type trimmer struct {
	last    heap
	trimmed time.Duration // 0 for never
}

// due says whether memory is to be given back now.
func (t *trimmer) due(h heap, now time.Duration) bool {
	calm := h.allocated-t.last.allocated <= calmBytes && t.last.allocated > 0
	t.last = h
	if !calm || h.spare() < max(leastSpare, h.live/sparePart) || t.trimmed > 0 && now-t.trimmed < pause {
		return false
	}
	t.trimmed = now
	return true
}

// Run looks once a second and after each collection, until ctx ends. It is called once in a
// process. How often garbage is collected it leaves to who has set GOGC.
func Run(ctx context.Context) {
	var t trimmer
	p := pacer{percent: usual}
	chosen := os.Getenv("GOGC") != ""
	collected := make(chan struct{}, 1)
	if !chosen {
		tellCollected(collected)
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for start := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-collected:
			tellCollected(collected)
			if p.collected(read().live, time.Since(start)) {
				debug.SetGCPercent(p.percent)
			}
		case <-ticker.C:
			h := read()
			if !chosen && p.slower(h.allocated-t.last.allocated, h.live) {
				debug.SetGCPercent(p.percent)
			}
			if t.due(h, time.Since(start)) {
				debug.FreeOSMemory()
			}
		}
	}
}

// tellCollected sends once, after the next collection or the one behind it.
func tellCollected(to chan<- struct{}) {
	type sentinel struct{ _ *sentinel } // with a pointer, or it would share its block with others
	runtime.AddCleanup(&sentinel{}, func(to chan<- struct{}) { to <- struct{}{} }, to)
}
