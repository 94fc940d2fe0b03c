package feed

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
)

// pressedFeed is a feed of large events whose sockets may hold 4 MiB. It comes with its
// sockets, those from alive on dead, and with the most bytes that were ever held.
func pressedFeed(t *testing.T, sockets, alive int) (f *Feed, list []*fakeSocket, most *atomic.Int64) {
	const limit = 4 << 20
	buffers := roomy
	buffers.SocketBytes = limit
	f = newTestFeed(t, buffers)
	held := &atomic.Int64{}
	most = &atomic.Int64{}
	look := func() int64 {
		n := held.Load()
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		return n
	}
	f.hub.config.Press = func() { // as the connections' engine does, if not at once
		for _, s := range list[alive:] {
			if s.cuts() == 0 && held.Load() > limit/2 {
				s.cut()
			}
		}
	}
	f.hub.config.Held, f.hub.sweep.held = look, look
	ctx, cancel := context.WithCancel(t.Context())
	var background sync.WaitGroup
	background.Go(func() { f.hub.guard(ctx) })
	t.Cleanup(background.Wait)
	t.Cleanup(cancel)
	for range sockets {
		s := newFakeSocket(64 << 10)
		s.held = held
		list = append(list, s)
		f.join(s, Filter{})
	}
	background.Go(func() { // the healthy clients read
		for ctx.Err() == nil {
			for _, s := range list[:alive] {
				s.refill(64 << 10)
			}
			look()
		}
	})
	return f, list, most
}

func TestHealthySocketsAreNotCutWhenLargeEventsMeetASmallBudget(t *testing.T) {
	const size, sockets = 160 << 10, 100 // 16 MiB for each event
	f, list, most := pressedFeed(t, sockets, sockets)
	for n := uint64(1); n <= 5; n++ {
		f.emit(n, size, labels{})
	}
	for _, s := range list {
		s.until(t, "all of it", func() bool { return len(s.owed) == 0 && s.got.Len() > 5*size })
		expect(t, s, 1, 5, 1)
		if s.cuts() > 0 {
			t.Fatal("a healthy socket was cut")
		}
	}
	if n, limit := most.Load(), f.hub.sweep.limit; n > limit || n < limit/4 {
		t.Errorf("%d bytes were held at most, of %d: want the budget to be used and kept", n, limit)
	}
}

func TestDeadSocketsDoNotStopTheOthersWhenTheBudgetIsUsedUp(t *testing.T) {
	const size, sockets, alive = 160 << 10, 100, 50
	f, list, most := pressedFeed(t, sockets, alive)
	for n := uint64(1); n <= 5; n++ {
		f.emit(n, size, labels{})
	}
	for _, s := range list[:alive] {
		s.until(t, "all of it", func() bool { return len(s.owed) == 0 && s.got.Len() > 5*size })
		expect(t, s, 1, 5, 1)
		if s.cuts() > 0 {
			t.Fatal("a healthy socket was cut")
		}
	}
	cut := 0
	for _, s := range list[alive:] {
		cut += min(1, s.cuts())
	}
	if cut == 0 {
		t.Error("no dead socket was cut: the budget was never used up")
	}
	if n, limit := most.Load(), f.hub.sweep.limit; n > limit {
		t.Errorf("%d bytes were held at most, of %d", n, limit)
	}
}
