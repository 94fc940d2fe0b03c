package feed

import (
	"context"
	"fmt"
	"sync"
	"testing"
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
	if err := h.Attach(ctx, "app", Filter{}, Since{}, s, &s.Reader); err != nil {
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
