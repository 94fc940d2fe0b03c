package gateway

import (
	"context"
	"testing"

	"github.com/coder/websocket"

	"canopy/edge/internal/group"
	"canopy/shared/config"
	"canopy/shared/event"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

// deleteConsumer deletes a group's consumer, as an operator could.
func (s *stack) deleteConsumer(g group.Status) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.js.DeleteConsumer(ctx, g.Stream, g.Consumer); err != nil {
		s.t.Fatal(err)
	}
}

// remakeStream deletes open-app's stream and makes it again.
func (s *stack) remakeStream() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	shard := subject.Shard("open-app", shards)
	if err := s.js.DeleteStream(ctx, subject.Stream(shard)); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.js.CreateStream(ctx, natstest.StreamConfig(shard, shards)); err != nil {
		s.t.Fatal(err)
	}
}

func TestAConsumerThatIsDeletedUnderItsGroupIsMadeAgainAndLosesNothing(t *testing.T) {
	s := startEdge(t, nil)
	other := s.another(nil)
	l := newLedger(t)
	for i := range 4 {
		l.add(i, []*stack{s, other}[i%2].dial("/open-app?group_id=g", nil))
	}
	g := s.awaitGroup("g", "it is there", func(g group.Status) bool { return g.Members == 2 })
	load := s.startPublishers(4, "open-app")
	load.await(t, 300)
	s.deleteConsumer(g)
	published := int(load.total.Load())
	until(t, "it is made again", func() bool {
		return s.metric("canopy_edge_group_remade_total")+other.metric("canopy_edge_group_remade_total") > 0
	})
	repeats := l.expect(load)
	t.Logf("%d events, %d published before the consumer was deleted; %d came again", load.total.Load(), published, repeats)
	if repeats > published+8 { // those that were under way while it was deleted
		t.Errorf("%d events came again of %d", repeats, published)
	}
}

// TestAStreamThatIsMadeAgainIsToldAndLosesNothing has an edge find out that does not make
// the consumer itself, while a member holds events of the old stream.
func TestAStreamThatIsMadeAgainIsToldAndLosesNothing(t *testing.T) {
	const old, more, fresh = 150, 30, 250                              // the new stream's sequences meet those that are held
	often := func(cfg *config.Config) { cfg.Edge.Groups.Replicas = 1 } // looks at the consumer often
	s := startEdge(t, often)
	edges := []*stack{s, s.another(often)}
	l := newLedger(t)
	n := 0
	publish := func(events int) {
		for range events {
			s.publish("open-app", "", n)
			n++
		}
	}
	await := func(what string, ok func(group.Status) bool) (g group.Status) {
		for _, e := range edges {
			g = e.awaitGroup("g", what, ok)
		}
		return g
	}
	for i := range 4 {
		l.add(i, edges[i%2].dial("/open-app?group_id=g", nil))
	}
	publish(old)
	await("the edge has seen what is acknowledged", func(g group.Status) bool { return g.AckFloor == old })
	var holding []*websocket.Conn
	for i := range 6 {
		holding = append(holding, edges[i%2].dial("/open-app?group_id=g", nil))
	}
	publish(more)
	await("members hold events", func(g group.Status) bool { return g.Slow > 0 && g.InFlight > 0 && g.Waiting == 0 })
	s.remakeStream()
	g := await("the edge knows that it is another stream", func(g group.Status) bool { return g.AckFloor < old })
	had, _ := l.counts()
	publish(fresh)
	l.await(had + fresh)
	for i, c := range holding { // what they hold is acknowledged now, and means nothing
		l.add(4+i, c)
	}
	l.mu.Lock()
	told := len(l.gaps) > 0 && l.gaps[0].Data.Reason == event.GapLog
	l.mu.Unlock()
	if !told {
		t.Error("no member was told of another log")
	}
	await("nothing is in flight", func(g group.Status) bool { return g.InFlight == 0 })
	// The edge that did not make the consumer must know where the new one stands.
	maker := 0
	if edges[1].metric("canopy_edge_group_remade_total") > 0 {
		maker = 1
	}
	if err := edges[maker].stop(); err != nil {
		t.Fatal(err)
	}
	s.deleteConsumer(g)
	had, _ = l.counts()
	publish(fresh)
	l.await(had + fresh)
}

func TestAGroupIsToldFirstWhatTheLogHasForgottenWhileItWasAway(t *testing.T) {
	const kept = 100
	for _, c := range []struct {
		name   string
		forget func(s *stack)
		first  int // event that comes after the gap
	}{
		{"too many events", func(*stack) {}, 10 + 500 - kept},
		{"all of them", func(s *stack) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			stream, err := s.js.Stream(ctx, subject.Stream(subject.Shard("open-app", shards)))
			if err != nil {
				t.Fatal(err)
			}
			// One by one, as age does: a purge moves the consumer, too.
			for state := stream.CachedInfo().State; state.FirstSeq <= state.LastSeq; state.FirstSeq++ {
				if err := stream.DeleteMsg(ctx, state.FirstSeq); err != nil {
					t.Fatal(err)
				}
			}
		}, 10 + 500},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startEdge(t, nil)
			s.keep(keepEvents(kept))
			away, before := s.dial("/open-app?group_id=g", nil), newCrew(t)
			before.add(0, away)
			last := ""
			for n := range 10 {
				s.publish("open-app", "", n)
				last = before.next().Cursor
			}
			s.awaitGroup("g", "all is acknowledged", func(g group.Status) bool { return g.Given == 10 && g.InFlight == 0 })
			if err := away.Close(websocket.StatusNormalClosure, ""); err != nil {
				t.Fatal(err)
			}
			s.awaitGroup("g", "nobody is there", func(g group.Status) bool { return g.Members == 0 })
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			s.publishMany("open-app", "", 10, 500)
			c.forget(s)
			s = s.another(nil)
			back := s.dial("/open-app?group_id=g", nil)
			gap := read(t, back)
			if gap.Type != event.GapType || gap.Data.Reason != event.GapRetention || gap.Data.After != last || gap.Data.Before <= last {
				t.Fatalf("the first message is %+v, want a gap after %s", gap, last)
			}
			for n := range 20 {
				s.publish("open-app", "", 510+n)
			}
			for n := c.first; n < 530; n++ {
				if r := read(t, back); r.Data.N != n {
					t.Fatalf("got %+v, want event %d", r, n)
				}
			}
			if n := s.metric("canopy_edge_group_gaps_total"); n != 1 {
				t.Errorf("%v gaps were counted", n)
			}
		})
	}
}
