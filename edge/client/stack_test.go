package client

import (
	"context"
	"fmt"
	"testing"
	"time"

	"canopy/edge/internal/edgetest"
)

// world is a real edge for clients.
type world struct{ *edgetest.World }

func newWorld(t *testing.T) world {
	t.Helper()
	return world{edgetest.Start(t)}
}

// config is that of a client of open-app.
func (w world) config() Config { return Config{Edge: "ws://" + w.Addr, Application: "open-app"} }

// reader is a client that runs beside the test.
type reader struct {
	t      *testing.T
	events chan Event
	waits  chan error    // why it waits
	opens  chan struct{} // a socket is open
	ended  chan error    // how its loop ended; nil if it was told to
	cancel context.CancelFunc
}

// read starts a client, and stops it with the test.
func (w world) read(cfg Config) *reader {
	w.T.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &reader{t: w.T, events: make(chan Event, 10_000), waits: make(chan error, 100), opens: make(chan struct{}, 100), ended: make(chan error, 1), cancel: cancel}
	cfg.OnOpen = func() { r.opens <- struct{}{} }
	cfg.OnWait = func(err error, _ time.Duration) { r.waits <- err }
	done := make(chan struct{})
	go func() {
		defer close(done)
		var last error
		for e, err := range Events(ctx, cfg) {
			if last = err; err == nil {
				r.events <- e
			}
		}
		r.ended <- last
	}()
	w.T.Cleanup(func() { cancel(); <-done })
	return r
}

func next[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(edgetest.Patience):
		t.Fatalf("not within %v: %s", edgetest.Patience, what)
		panic("not reached")
	}
}

// expect wants exactly the events with these numbers next.
func (r *reader) expect(numbers ...int) (last Event) {
	r.t.Helper()
	for _, n := range numbers {
		if last = next(r.t, fmt.Sprintf("event %d", n), r.events); last.ID != fmt.Sprint(n) {
			r.t.Fatalf("got event %s, want %d: %s", last.ID, n, last.JSON)
		}
	}
	return last
}

// open waits until a socket is open, and forgets why there was none before.
func (r *reader) open() {
	r.t.Helper()
	next(r.t, "a socket is open", r.opens)
	for len(r.waits) > 0 {
		_ = next(r.t, "an old reason", r.waits)
	}
}
