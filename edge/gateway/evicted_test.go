package gateway

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"canopy/edge/internal/group"
	"canopy/shared/event"
	"canopy/shared/natstest"
	"canopy/shared/stream"
	"canopy/shared/subject"
)

// noteEvictions has the stream of open-app say that the application's events are taken out,
// as ingest does before the first time.
func (s *stack) noteEvictions() {
	s.keep(func(c *jetstream.StreamConfig) { *c, _ = stream.NoteEvicted(*c, "open-app", time.Now()) })
}

// evict takes the events of open-app up to a sequence out of the stream, as ingest does when
// the application holds its whole share.
func (s *stack) evict(upTo uint64) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	shard := subject.Shard("open-app", shards)
	there, err := s.js.Stream(ctx, subject.Stream(shard))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := there.Purge(ctx, jetstream.WithPurgeSubject(subject.In(shard, "open-app")), jetstream.WithPurgeSequence(upTo+1)); err != nil {
		s.t.Fatal(err)
	}
}

// TestAGroupWhoseApplicationIsEvictedIsTold has what no member got lie in gaps that they were
// told of, although JetStream moves the group's consumer over what was taken out.
func TestAGroupWhoseApplicationIsEvictedIsTold(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, l *ledger) (published int)
	}{
		{"its member is slow", func(t *testing.T, l *ledger) int {
			s := startEdge(t, nil)
			s.noteEvictions()
			c, g := s.holding(20)
			s.awaitUnbound(g)
			s.publishMany("open-app", "", 20, 600)
			s.evict(500)
			l.add(0, c)
			return 620
		}},
		{"its member left, and the next one comes to an edge that did not know the group", func(t *testing.T, l *ledger) int {
			s := startEdge(t, nil)
			s.noteEvictions()
			c, _ := s.holding(10)
			s.gone(c)
			other := s.another(nil)
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			s.publishMany("open-app", "", 10, 95)
			s.evict(50)
			l.add(0, other.dial("/open-app?group_id=g", nil))
			return 105
		}},
		{"its member left, and comes back", func(t *testing.T, l *ledger) int {
			s := startEdge(t, nil)
			s.noteEvictions()
			c := s.dial("/open-app?group_id=g", nil)
			l.add(0, c)
			s.publishMany("open-app", "", 0, 10)
			g := s.awaitGroup("g", "all is acknowledged", func(g group.Status) bool { return g.Given == 10 && g.InFlight == 0 })
			s.gone(c)
			s.awaitUnbound(g)
			s.publishMany("open-app", "", 10, 95)
			s.evict(50)
			l.add(1, s.dial("/open-app?group_id=g", nil))
			return 105
		}},
		{"its member left an edge that held what was taken out", func(t *testing.T, l *ledger) int {
			s := startEdge(t, nil)
			other := s.another(nil)
			s.noteEvictions()
			c, _ := s.holding(10)
			s.publishMany("open-app", "", 10, 95)
			s.evict(50)
			s.gone(c)
			l.add(0, other.dial("/open-app?group_id=g", nil))
			return 105
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLedger(t)
			if lost := l.awaitTold(c.run(t, l)); lost == 0 {
				t.Error("all events came: nothing was taken out before")
			}
		})
	}
}

func TestAGroupThatKeepsUpIsToldOfNoGapWhileItsApplicationIsEvicted(t *testing.T) {
	s := startEdge(t, nil)
	s.noteEvictions()
	l := newLedger(t)
	l.add(0, s.dial("/open-app?group_id=g", nil))
	live := s.dial("/open-app", nil)
	const kept = 200
	n := 0
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end) || n < 2*kept; { // several looks at the group
		s.publishMany("open-app", "", n, 10)
		n += 10
		s.awaitGroup("g", "all is acknowledged", func(g group.Status) bool { return g.Given >= uint64(n) && g.InFlight == 0 })
		if n > kept {
			s.evict(uint64(n - kept))
		}
		<-time.After(100 * time.Millisecond) // so that the log is not filled between two looks
	}
	l.expectNoGap()
	for i := range n {
		if r := read(t, live); r.Type == event.GapType || r.Data.N != i {
			t.Fatalf("a live socket got %+v, want event %d", r, i)
		}
	}
}

func TestASocketThatComesBackBehindWhatWasEvictedIsTold(t *testing.T) {
	s := startEdge(t, nil)
	shard := subject.Shard("open-app", shards)
	neighbour := natstest.Message(shards, "open-app", "", `{"n":0}`)
	neighbour.Subject = subject.In(shard, "neighbour") // of which the stream's first event is
	if _, err := s.js.PublishMsg(t.Context(), neighbour); err != nil {
		t.Fatal(err)
	}
	s.noteEvictions()
	p := s.remember("open-app", 20)
	s.evict(p.at[10].Sequence)
	for _, c := range []struct {
		since int
		gap   bool
	}{{5, true}, {11, false}, {15, false}} {
		in := receive(t, s.dial("/open-app?since="+p.at[c.since].String(), nil))
		if c.gap != (in.Type == event.GapType && in.Data.Reason == event.GapRetention) {
			t.Errorf("since event %d: the first message is %+v, a gap: %v", c.since, in, c.gap)
		}
	}
}
