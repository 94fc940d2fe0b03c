package feed

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"canopy/shared/event"
	"canopy/shared/natstest"
)

// startDeafHub runs a hub that hears no events while deaf is set, after the looks that come
// soon after the start.
func startDeafHub(t *testing.T, deaf *atomic.Bool) (*Hub, jetstream.JetStream, *natstest.Proxy) {
	t.Helper()
	var proxy *natstest.Proxy
	h, js, _ := startHub(t, roomy, func(s *natstest.Server) string {
		proxy = natstest.StartProxy(t, s.URL(), func(subject string) bool {
			return deaf.Load() && strings.HasPrefix(subject, "events.")
		})
		return proxy.URL()
	}, nil)
	attach(t, h, Filter{}, Since{})
	await(t, "the looks after the start are over", func() bool { return count(t, h.stats.looks) >= 2 })
	return h, js, proxy
}

func TestSocketsFromAheadOfTheFeedShareOneAnswer(t *testing.T) {
	const events, others, sockets = 10, 300, 300
	var deaf atomic.Bool
	h, js, proxy := startDeafHub(t, &deaf)
	deaf.Store(true)
	log := fill(t, js, events)
	for range others { // so that places lie ahead of the feed for good
		if _, err := js.PublishMsg(t.Context(), natstest.Message(1, "neighbour", "", `{"n":1}`)); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "the events are lost", func() bool { return proxy.Dropped() >= events })
	before := count(t, h.stats.requests)
	list := make([]*fakeSocket, sockets)
	for i := range list {
		list[i] = newFakeSocket(-1)
		resume(t, h, list[i], event.Cursor{Log: log, Sequence: uint64(events + 1 + i)})
	}
	f := h.feeds["app"]
	await(t, "all have joined the live feed", func() bool { return h.replaying() == 0 && f.newest().Sequence == events })
	requests := count(t, h.stats.requests) - before
	t.Logf("%v requests for %d sockets", requests, sockets)
	if requests > sockets/5 {
		t.Errorf("%v requests for %d sockets, want them to share answers", requests, sockets)
	}
	deaf.Store(false)
	fill(t, js, 5)
	for _, s := range list {
		expect(t, s, events+others+1, events+others+5, 1)
	}
}

func TestSocketsFromBeyondTheEndShareOneAnswer(t *testing.T) {
	const events, sockets = 10, 300
	h, js, _ := startHub(t, roomy, nil, nil)
	attach(t, h, Filter{}, Since{})
	log := fill(t, js, events)
	await(t, "the looks after the start are over", func() bool { return count(t, h.stats.looks) >= 2 })
	before := count(t, h.stats.requests)
	list := make([]*fakeSocket, sockets)
	for i := range list {
		list[i] = newFakeSocket(-1)
		resume(t, h, list[i], event.Cursor{Log: log, Sequence: uint64(1000 + i)})
	}
	for i, s := range list {
		s.until(t, fmt.Sprint("a gap and all events for socket ", i), func() bool { return s.whole() == 1+events })
	}
	requests := count(t, h.stats.requests) - before
	t.Logf("%v requests for %d sockets", requests, sockets)
	if requests > sockets/5 {
		t.Errorf("%v requests for %d sockets, want them to share answers", requests, sockets)
	}
	if n := count(t, h.stats.gaps.WithLabelValues(event.GapFuture)); n != sockets {
		t.Errorf("%v gaps were told, want %d", n, sockets)
	}
}
