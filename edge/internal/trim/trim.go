// Package trim gives memory back to the kernel when the process has become calm.
//
// Go keeps what a burst of handshakes or events has used, up to the size at which it collects
// garbage next: twice what is alive, and a tenth. Where sockets mostly wait, that is memory
// which nobody uses for as long as they do.
package trim

import (
	"context"
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

// Run looks once a second, until ctx ends. It is called once in a process.
func Run(ctx context.Context) {
	var t trimmer
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for start := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if t.due(read(), time.Since(start)) {
			debug.FreeOSMemory()
		}
	}
}
