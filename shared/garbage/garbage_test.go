package garbage

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

const mib = 1 << 20

func TestMemoryIsGivenBackOnlyWhenTheProcessIsCalmAndThereIsMuch(t *testing.T) {
	const now = time.Minute
	before := heap{allocated: 100 * mib}
	for _, c := range []struct {
		name    string
		last    heap
		trimmed time.Duration
		heap    heap
		due     bool
	}{
		{"free", before, 0, heap{101 * mib, 10 * mib, 10 * mib, 5 * mib}, true},
		{"garbage", before, 0, heap{101 * mib, 10 * mib, 15 * mib, 0}, true},
		{"busy", before, 0, heap{101*mib + 1, 10 * mib, 10 * mib, 5 * mib}, false},
		{"little of much", before, 0, heap{101 * mib, 80 * mib, 85 * mib, 5*mib - 1}, false},
		{"little", before, 0, heap{101 * mib, mib, mib, mib - 1}, false},
		{"not known to be calm", heap{}, 0, heap{mib, 0, 0, 5 * mib}, false},
		{"a moment ago", before, now - pause + 1, heap{101 * mib, 10 * mib, 10 * mib, 5 * mib}, false},
		{"a while ago", before, now - pause, heap{101 * mib, 10 * mib, 10 * mib, 5 * mib}, true},
		{"fewer objects than were alive", before, 0, heap{101 * mib, 10 * mib, 5 * mib, 0}, false},
	} {
		trimmer := trimmer{last: c.last, trimmed: c.trimmed}
		if due := trimmer.due(c.heap, now); due != c.due {
			t.Errorf("%s: due is %v", c.name, due)
		}
		if c.due && trimmer.due(heap{c.heap.allocated, c.heap.live, c.heap.objects, c.heap.free}, now+every) {
			t.Errorf("%s: due again at once", c.name)
		}
	}
}

// burst is what is thrown away, and not on the stack.
var burst [][]byte

func TestWhatABurstHasUsedIsGivenBack(t *testing.T) {
	runtime.GC()
	before := debug.SetGCPercent(-1) // what comes during a collection counts as alive until the next one
	burst = make([][]byte, 64)
	for i := range burst {
		burst[i] = make([]byte, mib)
	}
	burst = nil
	debug.SetGCPercent(before)
	if had := read(); had.spare() < 32*mib && had.objects < 32*mib {
		t.Fatalf("the burst left nothing: %+v", had)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); Run(ctx) }()
	for deadline := time.Now().Add(time.Minute); ; <-time.After(every / 10) {
		if h := read(); h.objects+h.free < 16*mib {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not given back: %+v", read())
		}
	}
	cancel()
	<-done
}
