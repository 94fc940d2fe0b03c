package gateway

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

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

func TestAnEdgeIsNotReadyWhenTheNumberOfStreamsHasChanged(t *testing.T) {
	s := startEdge(t, nil)
	natstest.Streams(t, s.nats.Connect(), shards+1)
	s.nats.Down()
	s.nats.Up()
	for deadline := time.Now().Add(patience); ; {
		answer, err := http.Get("http://" + s.admin + "/readiness")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if answer.StatusCode == http.StatusServiceUnavailable && strings.Contains(string(body), "start this edge anew") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s %s %v; want 503 and what to do", answer.Status, body, err)
		}
	}
}
