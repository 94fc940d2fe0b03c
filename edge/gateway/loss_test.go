package gateway

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"canopy/shared/config"
	"canopy/shared/event"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

// expectRun reads the events from..to in order from every socket.
func expectRun(t *testing.T, sockets []*websocket.Conn, from, to int) {
	t.Helper()
	for i, c := range sockets {
		for n := from; n <= to; n++ {
			if r := read(t, c); r.Data.N != n {
				t.Fatalf("socket %d got event %d, want %d", i, r.Data.N, n)
			}
		}
	}
}

func TestMessagesLostOnTheWayAreReadFromTheStream(t *testing.T) {
	var seen atomic.Int64
	var proxy *natstest.Proxy
	s := startEdge(t, func(cfg *config.Config) {
		proxy = natstest.StartProxy(t, cfg.NATS.URL, func(subject string) bool {
			return strings.HasPrefix(subject, "events.") && seen.Add(1)%7 < 3
		})
		cfg.NATS.URL = proxy.URL()
	})
	sockets := []*websocket.Conn{s.dial("/open-app", nil), s.dial("/open-app", nil)}
	for n := 1; n <= 300; n++ {
		s.publish("open-app", "", n)
	}
	for seen.Load()%7 < 3 || seen.Load()%7 == 6 { // until one got through, which shows that others are missing
		s.publish("open-app", "", 0)
	}
	expectRun(t, sockets, 1, 300)
	if n := proxy.Dropped(); n < 100 {
		t.Fatalf("only %d messages were lost", n)
	}
}

func TestSocketsOutliveARestartOfNATSAndMissNothing(t *testing.T) {
	s := startEdge(t, nil)
	sockets := []*websocket.Conn{s.dial("/open-app", nil), s.dial("/other-app", nil)}
	for round := range 5 {
		for _, app := range []string{"open-app", "other-app"} {
			s.publish(app, "", 2*round)
		}
		s.nats.Down()
		s.nats.Up()
		for _, app := range []string{"open-app", "other-app"} {
			s.publish(app, "", 2*round+1)
		}
	}
	expectRun(t, sockets, 0, 9)
}

func TestAnEdgeThatIsCutOffReadsWhatItMissed(t *testing.T) {
	var proxy *natstest.Proxy
	var deaf atomic.Bool
	s := startEdge(t, func(cfg *config.Config) {
		proxy = natstest.StartProxy(t, cfg.NATS.URL, func(subject string) bool {
			return deaf.Load() && strings.HasPrefix(subject, "events.")
		})
		cfg.NATS.URL = proxy.URL()
	})
	sockets := []*websocket.Conn{s.dial("/open-app", nil)}
	s.publish("open-app", "", 1)
	expectRun(t, sockets, 1, 1)
	deaf.Store(true) // so that the end of the run is lost too, and only the reconnect tells
	for n := 2; n <= 2000; n++ {
		s.publish("open-app", "", n)
	}
	proxy.Cut()
	expectRun(t, sockets, 2, 2000)
	if n := proxy.Dropped(); n == 0 {
		t.Fatal("nothing was lost")
	}
}

func TestAStreamThatIsMadeAnewGivesAGapEventAndGoesOnFromItsFirstEvent(t *testing.T) {
	s := startEdge(t, nil)
	sockets := []*websocket.Conn{s.dial("/open-app", nil)}
	for n := 1; n <= 5; n++ {
		s.publish("open-app", "", n)
	}
	expectRun(t, sockets, 1, 4)
	old := receive(t, sockets[0]).Cursor
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	shard := subject.Shard("open-app", shards)
	if err := s.js.DeleteStream(ctx, subject.Stream(shard)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.js.CreateStream(ctx, natstest.StreamConfig(shard, shards)); err != nil {
		t.Fatal(err)
	}
	for n := 6; n <= 12; n++ { // the first five have sequences that the edge has had
		s.publish("open-app", "", n)
	}
	if in := receive(t, sockets[0]); in.Type != event.GapType || in.Data.Reason != event.GapLog || in.Data.After != old {
		t.Fatalf("got %+v, want a gap after %s", in, old)
	}
	expectRun(t, sockets, 6, 12)
}

// soon is how late a lost last event may be.
const soon = 5 * time.Second

// deafEdge is an edge that loses events while deaf is true, and the lost ones.
func deafEdge(t *testing.T) (s *stack, deaf *atomic.Bool, proxy *natstest.Proxy) {
	deaf = &atomic.Bool{}
	s = startEdge(t, func(cfg *config.Config) {
		proxy = natstest.StartProxy(t, cfg.NATS.URL, func(subject string) bool {
			return deaf.Load() && strings.HasPrefix(subject, "events.")
		})
		cfg.NATS.URL = proxy.URL()
	})
	return s, deaf, proxy
}

func (s *stack) awaitMetric(name string, least float64) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); s.metric(name) < least; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s is %v after %s, want %v", name, s.metric(name), patience, least)
		}
	}
}

// beacon says what ingest says when an application falls quiet.
func (s *stack) beacon(application string, c event.Cursor) {
	s.t.Helper()
	m := nats.NewMsg(subject.Events(subject.Shard(application, shards), application))
	m.Header.Set(event.HeaderBeacon, c.String())
	if err := s.js.Conn().PublishMsg(m); err != nil {
		s.t.Fatal(err)
	}
}

func TestALostLastEventIsNoticedByTheBeacon(t *testing.T) {
	s, deaf, proxy := deafEdge(t)
	c := s.dial("/open-app", nil)
	s.awaitMetric("canopy_edge_feed_looks_total", 2) // those that come soon by themselves are over
	p := s.remember("open-app", 1)
	if in := receive(t, c); in.Cursor != p.at[1].String() {
		t.Fatalf("got %+v", in)
	}
	s.beacon("open-app", p.at[1]) // tells nothing new
	s.awaitMetric("canopy_edge_feed_beacons_total", 1)
	deaf.Store(true)
	p = s.remember("open-app", 2)
	for deadline := time.Now().Add(patience); proxy.Dropped() < 2; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing was lost")
		}
	}
	deaf.Store(false)
	lost := time.Now()
	s.beacon("open-app", p.at[2])
	for n := 1; n <= 2; n++ {
		if in := receive(t, c); in.Cursor != p.at[n].String() {
			t.Fatalf("got %+v, want %v", in, p.at[n])
		}
	}
	if late := time.Since(lost); late > soon {
		t.Errorf("the last event came %v after its loss", late)
	}
	if looks, beacons := s.metric("canopy_edge_feed_looks_total"), s.metric("canopy_edge_feed_beacons_total"); looks != 2 || beacons != 2 {
		t.Errorf("%v looks and %v beacons, want 2 and 2: something else has told", looks, beacons)
	}
	if n := s.metric("canopy_edge_feed_holes_total"); n != 1 {
		t.Errorf("%v holes, want 1", n)
	}
}

func TestAnEventLostRightAfterThe101IsNoticedWithoutABeacon(t *testing.T) {
	s, deaf, proxy := deafEdge(t)
	deaf.Store(true) // as if the leader's node did not know of the subscription yet
	c := s.dial("/open-app", nil)
	opened := time.Now()
	s.publish("open-app", "", 1)
	if r := read(t, c); r.Data.N != 1 {
		t.Fatalf("got %+v", r)
	}
	if late := time.Since(opened); late > soon {
		t.Errorf("the event came after %v", late)
	}
	if proxy.Dropped() == 0 {
		t.Fatal("nothing was lost")
	}
}

func TestABeaconOfAnotherLogTellsThatTheStreamWasMadeAnew(t *testing.T) {
	s := startEdge(t, nil)
	c := s.dial("/open-app", nil)
	p := s.remember("open-app", 1)
	receive(t, c)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	shard := subject.Shard("open-app", shards)
	if err := s.js.DeleteStream(ctx, subject.Stream(shard)); err != nil {
		t.Fatal(err)
	}
	stream, err := s.js.CreateStream(ctx, natstest.StreamConfig(shard, shards))
	if err != nil {
		t.Fatal(err)
	}
	log := event.LogOf(stream.CachedInfo().Created)
	s.beacon("open-app", event.Cursor{Log: log})
	in := receive(t, c)
	if in.Type != event.GapType || in.Data.Reason != event.GapLog || in.Data.After != p.at[1].String() || in.Data.Before != (event.Cursor{Log: log, Sequence: 1}).String() {
		t.Fatalf("got %+v, want a gap after %v", in, p.at[1])
	}
}

func TestEventsThatLeaveTheStreamBeforeTheyCanBeReadAreToldAsAGap(t *testing.T) {
	s, deaf, proxy := deafEdge(t)
	sockets := []*websocket.Conn{s.dial("/open-app", nil), s.dial("/open-app/none", nil)}
	s.awaitMetric("canopy_edge_feed_looks_total", 2)
	first := s.remember("open-app", 1)
	receive(t, sockets[0])
	deaf.Store(true)
	lost := s.remember("open-app", 4)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := s.js.Stream(ctx, subject.Stream(subject.Shard("open-app", shards)))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSequence(lost.at[3].Sequence)); err != nil { // 1 and 2
		t.Fatal(err)
	}
	if proxy.Dropped() == 0 {
		t.Fatal("nothing was lost")
	}
	deaf.Store(false)
	s.beacon("open-app", lost.at[4])
	for i, c := range sockets {
		in := receive(t, c)
		if in.Type != event.GapType || in.Data.Reason != event.GapRetention || in.Data.After != first.at[1].String() ||
			in.Data.Before != lost.at[3].String() || in.Cursor >= lost.at[3].String() || in.Cursor <= first.at[1].String() {
			t.Fatalf("socket %d got %+v, want a gap from %v to %v", i, in, first.at[1], lost.at[3])
		}
	}
	for n := 3; n <= 4; n++ {
		if in := receive(t, sockets[0]); in.Cursor != lost.at[n].String() {
			t.Fatalf("got %+v, want %v", in, lost.at[n])
		}
	}
	if n := s.metric(`canopy_edge_gaps_total{reason="retention"}`); n != 1 {
		t.Errorf("%v gaps are counted, want 1", n)
	}
}
