package gateway

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"testing"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go/jetstream"

	"canopy/edge/internal/group"
	"canopy/shared/config"
	"canopy/shared/event"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

// startEdgeBehindProxy starts an edge that reaches NATS through a proxy, which can cut it off.
func startEdgeBehindProxy(t *testing.T) (s *stack, proxy *natstest.Proxy) {
	s = startEdge(t, func(cfg *config.Config) {
		proxy = natstest.StartProxy(t, cfg.NATS.URL, nil)
		cfg.NATS.URL = proxy.URL()
	})
	return s, proxy
}

// keep changes what open-app's stream keeps.
func (s *stack) keep(change func(*jetstream.StreamConfig)) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	shard := subject.Shard("open-app", shards)
	cfg := natstest.StreamConfig(shard, shards)
	change(&cfg)
	if _, err := s.js.UpdateStream(ctx, cfg); err != nil {
		s.t.Fatal(err)
	}
}

func keepEvents(n int64) func(*jetstream.StreamConfig) {
	return func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = n }
}

func keepBytes(n int64) func(*jetstream.StreamConfig) {
	return func(c *jetstream.StreamConfig) { c.MaxBytes = n }
}

// oldest is the sequence of the first event in open-app's stream.
func (s *stack) oldest() uint64 {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := s.js.Stream(ctx, subject.Stream(subject.Shard("open-app", shards)))
	if err != nil {
		s.t.Fatal(err)
	}
	return stream.CachedInfo().State.FirstSeq
}

// awaitUnbound waits until nobody is subscribed to what a group's consumer sends.
func (s *stack) awaitUnbound(g group.Status) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	until(s.t, "the last subscription is gone", func() bool {
		c, err := s.js.PushConsumer(ctx, g.Stream, g.Consumer)
		return err == nil && !c.CachedInfo().PushBound
	})
}

// holding opens a socket of group g that reads nothing yet, gives it n events, and waits until
// they are there.
func (s *stack) holding(n int) (*websocket.Conn, group.Status) {
	s.t.Helper()
	c := s.dial("/open-app?group_id=g", nil)
	s.awaitMembers(1)
	s.publishMany("open-app", "", 0, n)
	g := s.awaitGroup("g", "its member owes an answer", func(g group.Status) bool { return g.InFlight == n && g.Slow == 1 })
	return c, g
}

// gone closes the only socket of group g.
func (s *stack) gone(c *websocket.Conn) {
	s.t.Helper()
	_ = c.CloseNow() // it is to be gone, whatever it says
	s.awaitGroup("g", "nobody is there", func(g group.Status) bool { return g.Members == 0 })
}

// spans says whether a gap event names a place in the stream.
func (r received) spans(t *testing.T, place uint64) bool {
	t.Helper()
	after, err1 := event.ParseCursor(r.Data.After)
	before, err2 := event.ParseCursor(r.Data.Before)
	if err := errors.Join(err1, err2); err != nil {
		t.Errorf("gap %+v: %v", r.Data, err)
	}
	return after.Sequence < place && place < before.Sequence
}

// awaitTold waits until each of the events 1 to n, which are the stream's only ones, either
// came or lies in a gap that members were told of. It gives the number of those that did
// not come.
func (l *ledger) awaitTold(n int) (lost int) {
	l.t.Helper()
	untold := 0
	defer func() {
		if untold > 0 {
			l.t.Logf("event %d is the first one that nobody was told of; the gaps are %+v", untold, l.gaps)
		}
	}()
	until(l.t, "the group is told of everything that it did not get", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		lost, untold = 0, 0
		for i := 1; i <= n; i++ {
			if l.times[strconv.Itoa(i)] > 0 {
				continue
			}
			lost++
			if !slices.ContainsFunc(l.gaps, func(r received) bool { return r.spans(l.t, uint64(i)) }) {
				untold = i
				return false
			}
		}
		return true
	})
	return lost
}

// expectNoGap fails if a gap was told.
func (l *ledger) expectNoGap() {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range l.gaps {
		l.t.Errorf("all events came, and a gap was told: %+v", g.Data)
	}
}

// TestAGroupThatTheLogOvertakesIsTold has what no member got lie in gaps that they were told
// of, wherever it was lost: in the stream, on the way to a member that was passed over, with
// one that left, or with its edge.
func TestAGroupThatTheLogOvertakesIsTold(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, l *ledger) (published int)
	}{
		{"its member reads too slowly", func(t *testing.T, l *ledger) int {
			s := startEdge(t, func(cfg *config.Config) { cfg.Edge.Buffers.GroupBytes = 32 << 10 }) // about 60 events
			s.keep(keepEvents(100))
			c := s.dial("/open-app?group_id=g", nil) // reads nothing yet
			for n := range 600 {
				s.publish("open-app", "", n)
			}
			l.add(0, c)
			return 600
		}},
		{"its member left, and the next one comes to an edge that did not know the group", func(t *testing.T, l *ledger) int {
			s := startEdge(t, nil)
			s.keep(keepEvents(100))
			c, _ := s.holding(10)
			s.gone(c)
			other := s.another(nil)
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			s.publishMany("open-app", "", 10, 95)
			l.add(0, other.dial("/open-app?group_id=g", nil))
			return 105
		}},
		{"its member left, and comes back", func(t *testing.T, l *ledger) int {
			s := startEdge(t, nil)
			s.keep(keepEvents(100))
			c, g := s.holding(10)
			s.gone(c)
			s.awaitUnbound(g)
			s.publishMany("open-app", "", 10, 95)
			l.add(0, s.dial("/open-app?group_id=g", nil))
			return 105
		}},
		{"its member left an edge that held what the log had forgotten", func(t *testing.T, l *ledger) int {
			s := startEdge(t, nil)
			other := s.another(nil)
			s.keep(keepEvents(100))
			c, _ := s.holding(10)
			s.publishMany("open-app", "", 10, 95)
			s.gone(c)
			l.add(0, other.dial("/open-app?group_id=g", nil))
			return 105
		}},
		{"its member was slow while the log forgot what nobody was sent", func(t *testing.T, l *ledger) int {
			s := startEdge(t, nil)
			s.keep(keepBytes(20 << 10))
			c, g := s.holding(20)
			s.awaitUnbound(g)
			s.publishMany("open-app", "", 20, 600)
			l.add(0, c)
			return 620
		}},
		{"its member was away for a moment, in which the log forgot what nobody was sent", func(t *testing.T, l *ledger) int {
			s := startEdge(t, nil)
			s.keep(keepBytes(20 << 10))
			c := s.dial("/open-app?group_id=g", nil)
			l.add(0, c)
			s.publishMany("open-app", "", 0, 10)
			g := s.awaitGroup("g", "all is acknowledged", func(g group.Status) bool { return g.Given == 10 && g.InFlight == 0 })
			s.gone(c)
			s.awaitUnbound(g)
			s.publishMany("open-app", "", 10, 600)
			l.add(1, s.dial("/open-app?group_id=g", nil))
			return 610
		}},
		{"its edge was cut off meanwhile", func(t *testing.T, l *ledger) int {
			s, proxy := startEdgeBehindProxy(t)
			s.keep(keepBytes(20 << 10))
			c, _ := s.holding(10)
			proxy.Refuse()
			n := 10
			for ; s.oldest() < 6; n++ {
				s.publish("open-app", "", n)
			}
			proxy.Admit()
			s.awaitGroup("g", "it was looked at since", func(g group.Status) bool { return g.AckFloor >= 5 })
			s.gone(c)
			l.add(0, s.dial("/open-app?group_id=g", nil))
			return n
		}},
		{"its member left while its edge was cut off", func(t *testing.T, l *ledger) int {
			s, proxy := startEdgeBehindProxy(t)
			s.keep(keepBytes(20 << 10))
			c, _ := s.holding(10)
			proxy.Refuse()
			s.await("the edge has noticed", func() bool { status, _ := s.health("/readiness"); return status != http.StatusOK })
			s.gone(c)
			n := 10
			for ; s.oldest() < 6; n++ {
				s.publish("open-app", "", n)
			}
			proxy.Admit()
			s.waitReady()
			l.add(0, s.dial("/open-app?group_id=g", nil))
			return n
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLedger(t)
			if lost := l.awaitTold(c.run(t, l)); lost == 0 {
				t.Error("all events came: the log did not overtake the group")
			}
		})
	}
}

func TestAGroupIsToldOfNoGapByAnEdgeThatDoesNotHoldWhatAnotherOneHolds(t *testing.T) {
	const held, all, kept = 10, 1100, 1000
	often := func(cfg *config.Config) { cfg.Edge.Groups.Replicas = 1 } // looks at the consumer often
	s := startEdge(t, often)
	other := s.another(often)
	s.keep(keepEvents(kept))
	l := newLedger(t)
	c, _ := s.holding(held)
	l.add(1, s.dial("/open-app?group_id=g", nil))
	l.add(2, other.dial("/open-app?group_id=g", nil))
	s.awaitMembers(2)
	other.awaitMembers(1)
	for n := held; n < all; n += 109 {
		s.publishMany("open-app", "", n, 109)
		l.await(n + 109 - held)
	}
	l.add(0, c) // answers when the log has forgotten what it holds
	l.await(all)
	other.awaitGroup("g", "it was looked at since", func(g group.Status) bool { return g.AckFloor == all })
	l.expectNoGap()
}

func TestAGroupThatKeepsUpIsToldOfNoGapWhateverComesAtOnce(t *testing.T) {
	const kept, before, burst = 100, 500, 90
	s := startEdge(t, func(cfg *config.Config) { cfg.Edge.Groups.Replicas = 1 })
	s.keep(keepEvents(kept))
	l := newLedger(t)
	l.add(0, s.dial("/open-app?group_id=g", nil))
	s.awaitMembers(1)
	for n := 0; n < before; n += 20 {
		s.publishMany("open-app", "", n, 20)
		l.await(n + 20)
	}
	// What the log forgets while its acknowledgement is under way counts as lost.
	s.awaitGroup("g", "it has acknowledged all", func(g group.Status) bool { return g.AckFloor == before })
	s.publishMany("open-app", "", before, burst)
	l.await(before + burst)
	s.awaitGroup("g", "it was looked at since", func(g group.Status) bool { return g.AckFloor == before+burst })
	l.expectNoGap()
}

func TestWordsAboutGroupsThatMeanNothingDoNoHarm(t *testing.T) {
	s := startEdge(t, nil)
	l := newLedger(t)
	l.add(0, s.dial("/open-app?group_id=g", nil))
	g := s.awaitGroup("g", "its member is there", func(g group.Status) bool { return g.Members == 1 })
	nc := s.js.Conn()
	for _, consumer := range []string{g.Stream + "." + g.Consumer, g.Stream + ".none", "EVENTS_99.none", "EVENTS_-1.none", "none.none"} {
		for _, body := range []string{
			"", "{", "[]", "null", `{"stream_seq":-1}`, `{"stream_seq":1e30}`, `{"stream_seq":0}`, `{"stream_seq":7}`,
			`{"kept":1}`, `{"lost":18446744073709551615}`, `{"ceded":1}`, `{"ceded":-1}`, `{"told":{"after":9,"before":3}}`, `{"told":{}}`, `{"told":null}`,
		} {
			for _, to := range []string{"$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.", "canopy.groups."} {
				if err := nc.Publish(to+consumer, []byte(body)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	s.publishMany("open-app", "", 0, 100)
	l.await(100)
}
