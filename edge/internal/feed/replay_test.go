package feed

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"canopy/shared/event"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

// fill publishes n numbered events and gives the log. Nothing else is in the stream, so
// that event n has sequence n.
func fill(t *testing.T, js jetstream.JetStream, n int) event.Log {
	t.Helper()
	stream, err := js.Stream(t.Context(), subject.Stream(0))
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= n; i++ {
		if js.PublishAsyncPending() > 1000 {
			<-js.PublishAsyncComplete()
		}
		if _, err := js.PublishMsgAsync(natstest.Message(1, "app", "", fmt.Sprintf(`{"n":%d}`, i))); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(patience):
		t.Fatal("events are not acknowledged")
	}
	return event.LogOf(stream.CachedInfo().Created)
}

// resume opens a socket behind event n.
func resume(t *testing.T, h *Hub, s *fakeSocket, c event.Cursor) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := h.Attach(ctx, "app", Filter{}, Since{kind: fromCursor, cursor: c}, s, &s.Reader); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Detach)
	s.Release()
}

func TestAThousandSocketsThatResumeShareTheirReads(t *testing.T) {
	const events, sockets = 800, 1000
	h, js, _ := startHub(t, roomy, nil, nil)
	log := fill(t, js, events)
	list := make([]*fakeSocket, sockets)
	from := make([]uint64, sockets)
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range list {
		list[i], from[i] = newFakeSocket(-1), rng.Uint64N(200)
		resume(t, h, list[i], event.Cursor{Log: log, Sequence: from[i]})
	}
	for i, s := range list {
		expect(t, s, from[i]+1, events, 1)
	}
	reads, replays := count(t, h.stats.replayReads), count(t, h.stats.replays)
	t.Logf("%v sockets read %d events each in %v reads", replays, events, reads)
	if replays != sockets || reads > 200 {
		t.Errorf("%v reads for %v sockets, want them to be shared", reads, replays)
	}
	await(t, "all have joined the live feed", func() bool { return h.replaying() == 0 }) // behind their last event
}

func TestSocketsThatResumeOneAfterAnotherReadEveryEventOnce(t *testing.T) {
	const events, sockets = 800, 200
	h, js, _ := startHub(t, roomy, nil, nil)
	log := fill(t, js, events)
	first := uint64(events)
	rng := rand.New(rand.NewPCG(5, 6))
	for range sockets {
		s, from := newFakeSocket(-1), 100+rng.Uint64N(300)
		resume(t, h, s, event.Cursor{Log: log, Sequence: from})
		expect(t, s, from+1, events, 1)
		s.Detach()
		first = min(first, from+1)
	}
	reads, replays, replayed := count(t, h.stats.replayReads), count(t, h.stats.replays), count(t, h.stats.replayed)
	t.Logf("%v sockets read %v events in %v reads", replays, replayed, reads)
	if replays != sockets || replayed != float64(events-first+1) || reads > 50 {
		t.Errorf("%v sockets read %v events in %v reads, want %d, each once", replays, replayed, reads, events-first+1)
	}
}

func TestWhatWasReadForOneSocketIsThereForTheNextThoughTheLogHasForgottenIt(t *testing.T) {
	const events, old = 20, 10
	h, js, _ := startHub(t, roomy, nil, nil)
	log := fill(t, js, events)
	for _, c := range []struct {
		name string
		gaps float64
	}{{"it reads", 0}, {"the log has forgotten", 0}, {"and so has the edge", 1}} {
		s := newFakeSocket(-1)
		resume(t, h, s, event.Cursor{Log: log})
		s.until(t, c.name, func() bool { return s.Cursor().Sequence == events })
		if n := gapsOf(t, h); n != c.gaps {
			t.Errorf("%s: %v gaps were told, want %v", c.name, n, c.gaps)
		}
		if c.gaps == 0 {
			expect(t, s, 1, events, 1)
		}
		if c.name == "it reads" {
			expire(t, js, old)
		} else {
			h.kept.trim(time.Now())
		}
	}
}

func TestAReplayThatStallsHoldsNobodyUpAndGoesOnWhenItDrains(t *testing.T) {
	const events = 3000
	buffers := roomy
	buffers.FeedBytes = 64 << 10
	h, js, _ := startHub(t, buffers, nil, nil)
	log := fill(t, js, events)
	stuck, leaves := newFakeSocket(100), newFakeSocket(100)
	resume(t, h, stuck, event.Cursor{Log: log})
	resume(t, h, leaves, event.Cursor{Log: log})
	for _, s := range []*fakeSocket{stuck, leaves} {
		s.until(t, "it is written to", func() bool { return s.writes > 0 })
	}
	for range 5 {
		s := newFakeSocket(-1)
		resume(t, h, s, event.Cursor{Log: log, Sequence: 100})
		expect(t, s, 101, events, 1)
	}
	stuck.mu.Lock()
	if stuck.writes != 1 {
		t.Errorf("a stalled socket got %d writes", stuck.writes)
	}
	stuck.mu.Unlock()
	if c := leaves.Cursor(); c.Log != log || c.Sequence == 0 || c.Sequence >= events {
		t.Errorf("the cursor in the middle of a replay is %v", c)
	}
	leaves.Detach()
	leaves.until(t, "it is told", func() bool { return leaves.detached == 1 })
	client, cancel := context.WithCancel(t.Context())
	defer cancel()
	go stuck.readSlowly(client)
	stuck.until(t, "all of it", func() bool { return stuck.whole() == events })
	expect(t, stuck, 1, events, 1)
	await(t, "all have joined the live feed", func() bool { return h.replaying() == 0 }) // behind their last event
}

func TestTheBackstopNoticesALostLastEventWithoutABeacon(t *testing.T) {
	var deaf atomic.Bool
	var proxy *natstest.Proxy
	h, js, _ := startHub(t, roomy, func(s *natstest.Server) string {
		proxy = natstest.StartProxy(t, s.URL(), func(subject string) bool {
			return deaf.Load() && strings.HasPrefix(subject, "events.")
		})
		return proxy.URL()
	}, func(c *Config) { c.Backstop = time.Second })
	s := newFakeSocket(-1)
	resume(t, h, s, event.Cursor{Log: fill(t, js, 0)})
	await(t, "the looks after the start are over", func() bool { return count(t, h.stats.looks) >= 2 })
	deaf.Store(true)
	began := time.Now()
	fill(t, js, 3)
	expect(t, s, 1, 3, 1)
	if late := time.Since(began); late > 5*time.Second {
		t.Errorf("the events came after %v", late)
	}
	if proxy.Dropped() == 0 {
		t.Fatal("nothing was lost")
	}
	if n := count(t, h.stats.holes); n != 1 {
		t.Errorf("%v holes, want 1", n)
	}
}
