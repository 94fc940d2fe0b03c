package feed

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

func TestReliefWaitsForSocketsToDrainAndThenForWhatItCutToBeFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		buffers := roomy
		buffers.SocketBytes = 64 << 10
		held := buffers.SocketBytes * 5 / 4
		h := New(Config{Buffers: buffers, Workers: 1, Held: func() int64 { return held }}, nil, nil, zap.NewNop(), prometheus.NewRegistry())
		f := newOpenFeed(h, "app")
		sockets := make([]*fakeSocket, 100)
		for i := range sockets {
			sockets[i] = newFakeSocket(0)
			f.join(sockets[i], Filter{})
		}
		f.emit(1, 1000, labels{})
		w := worker{sweep: h.sweep, readers: make([]*Reader, 0, batch)}
		w.turn(h.sweep.pop())
		cut := func() (n int) {
			synctest.Wait()
			for _, s := range sockets {
				n += min(1, s.cuts())
			}
			return n
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go h.guard(ctx)
		time.Sleep(drainGrace - lookAtHeld)
		if n := cut(); n > 0 {
			t.Fatalf("%d sockets were cut at once", n)
		}
		time.Sleep(2 * lookAtHeld)
		first := cut()
		if first == 0 || first > 50 {
			t.Fatalf("%d of %d sockets were cut", first, len(sockets))
		}
		h.checkHeld() // another socket stalls before anything is freed
		time.Sleep(2 * relievePause)
		if n := cut(); n != first {
			t.Errorf("%d more sockets were cut, although those that are leaving hold all that is too much", n-first)
		}
		for _, s := range sockets {
			if s.cuts() > 0 {
				s.Forget()
			}
		}
		time.Sleep(2 * relievePause)
		if n := cut(); n <= first {
			t.Error("no socket was cut, although the bytes are still held")
		}
	})
}

// pressedFeed is a feed of large events whose sockets may hold 4 MiB. It comes with its
// sockets, those from alive on dead, and with the most bytes that were ever held.
func pressedFeed(t *testing.T, sockets, alive int, grace time.Duration) (f *Feed, list []*fakeSocket, most *atomic.Int64) {
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
	f.hub.grace = grace // so that a busy machine makes no client look dead
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
	f, list, most := pressedFeed(t, sockets, sockets, patience)
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
	f, list, most := pressedFeed(t, sockets, alive, 300*time.Millisecond)
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

func TestClosingSocketsThatHoldBytesAreCutFirst(t *testing.T) {
	h := New(Config{Buffers: roomy, Workers: 1, Held: func() int64 { return 0 }}, nil, nil, zap.NewNop(), prometheus.NewRegistry())
	f := newOpenFeed(h, "app")
	stays, leaves, gone := newFakeSocket(0), newFakeSocket(0), newFakeSocket(0)
	for _, s := range []*fakeSocket{stays, leaves, gone} {
		f.join(s, Filter{})
	}
	f.emit(1, 1000, labels{})
	w := worker{sweep: h.sweep, readers: make([]*Reader, 0, batch)}
	w.turn(h.sweep.pop())
	leaves.Detach()
	gone.Forget()
	h.relieve(500)
	if leaves.lagged != 1 || stays.lagged != 0 || gone.lagged != 0 {
		t.Errorf("cut: closing %d, open %d, gone %d; want the closing one", leaves.lagged, stays.lagged, gone.lagged)
	}
	leaves.Forget()
	if n := len(h.leaving.all()); n != 0 {
		t.Errorf("%d sockets are remembered that are gone", n)
	}
}
