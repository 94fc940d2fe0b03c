package feed

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/shared/natstest"
)

// await waits for a condition that nobody announces.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

func TestWhatTheClientDropsDuringARepairIsRead(t *testing.T) {
	const events = 5
	nc := natstest.Start(t).Connect()
	js := natstest.Streams(t, nc, 1)
	h := New(Config{Buffers: roomy, Workers: 2, Held: func() int64 { return 0 }}, nc, nc, zap.NewNop(), prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(t.Context())
	var hub sync.WaitGroup
	hub.Go(func() { _ = h.Run(ctx) })
	defer hub.Wait()
	defer cancel()
	await(t, "the streams are known", func() bool { return h.Ready() == nil })
	s := newFakeSocket(-1)
	if err := h.Attach(ctx, "app", Filter{}, s, &s.Reader); err != nil {
		t.Fatal(err)
	}
	s.Release()

	f := h.feeds["app"]
	if err := f.sub.SetPendingLimits(1, -1); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock() // so that the first waits for it, the second in the queue, and the others are dropped
	for n := range events {
		if _, err := js.PublishMsg(ctx, natstest.Message(1, "app", "", fmt.Sprintf(`{"n":%d}`, n))); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "messages are dropped", func() bool { n, _ := f.sub.Dropped(); return n >= events-2 })
	f.chain.hold()
	f.startRepair() // as after the report of an earlier drop
	f.mu.Unlock()
	expect(t, s, 1, events, 1)
}

func TestReliefWaitsUntilWhatItCutCanBeFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		buffers := roomy
		buffers.SocketBytes = 64 << 10
		held := buffers.SocketBytes * 5 / 4
		h := New(Config{Buffers: buffers, Workers: 1, Held: func() int64 { return held }}, nil, nil, zap.NewNop(), prometheus.NewRegistry())
		f := newOpenFeed(h, "app")
		sockets := make([]*fakeSocket, 60)
		for i := range sockets {
			sockets[i] = newFakeSocket(0)
			f.join(sockets[i], Filter{})
		}
		f.emit(1, 2000, labels{})
		w := worker{sweep: h.sweep, readers: make([]*Reader, 0, batch)}
		w.turn(h.sweep.pop())
		cut := func() (n int) {
			synctest.Wait()
			for _, s := range sockets {
				s.mu.Lock()
				n += s.lagged
				s.mu.Unlock()
			}
			return n
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go h.tidy(ctx)
		first := cut()
		if first == 0 || first > 20 {
			t.Fatalf("%d of %d sockets were cut", first, len(sockets))
		}
		h.checkHeld() // another socket stalls before anything is freed
		if n := cut(); n != first {
			t.Errorf("%d more sockets were cut", n-first)
		}
		time.Sleep(relievePause)
		if n := cut(); n <= first {
			t.Error("no socket was cut, although the bytes are still held")
		}
	})
}
