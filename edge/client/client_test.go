package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"canopy/edge/internal/edgetest"
	"canopy/shared/subject"
)

func TestEventsComeWhole(t *testing.T) {
	w := newWorld(t)
	r := w.read(w.config())
	r.open()
	w.Publish("open-app", "some/channel", 3)
	e := r.expect(3)
	if e.Type != "t" || e.Source != "s" || e.Subject != "some/channel" || e.Application != "open-app" || e.Device != "d1" ||
		!e.Time.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) || string(e.Data) != `{"n":3}` || e.Cursor == "" || e.Gap != nil {
		t.Errorf("got %+v", e)
	}
}

func TestChannelAndDeviceFilter(t *testing.T) {
	w := newWorld(t)
	channel, device := w.config(), w.config()
	channel.Application, channel.Channel = "with/slash and space", "a/b?c"
	device.Device = "d1"
	byChannel, byDevice := w.read(channel), w.read(device)
	byChannel.open()
	byDevice.open()
	for n := range 4 {
		w.Publish("with/slash and space", []string{"a/b?c", "a"}[n%2], n)
		w.Publish("open-app", "", n)
	}
	byChannel.expect(0, 2)
	byDevice.expect(1, 3)
}

func TestAnEdgeThatIsDrainedAndComesBackLosesAndRepeatsNothing(t *testing.T) {
	w := newWorld(t)
	r := w.read(w.config())
	r.open()
	n := 0
	for range 3 {
		for range 20 {
			n++
			w.Publish("open-app", "", n)
		}
		// Some of them are on their way when the edge goes.
		w.Stop()
		var closed *ClosedError
		if err := next(t, "the socket ends", r.waits); !errors.As(err, &closed) || closed.Code != 1001 || closed.Reason != "edge is going away" {
			t.Fatalf("the socket ended with %v, want 1001", err)
		}
		for range 20 {
			n++
			w.Publish("open-app", "", n)
		}
		w.Up()
		r.open()
	}
	for i := range n {
		r.expect(i + 1)
	}
}

func TestAClientThatHadNoEventMissesNoneWhileItsEdgeIsAway(t *testing.T) {
	w := newWorld(t)
	r := w.read(w.config())
	r.open()
	w.Stop()
	_ = next(t, "the socket ends", r.waits)
	w.Publish("open-app", "", 1)
	w.Up()
	w.Publish("open-app", "", 2)
	r.expect(1, 2)
}

func TestSinceBeginsBehindACursorAndEarliestAtTheStart(t *testing.T) {
	w := newWorld(t)
	for n := range 5 {
		w.Publish("open-app", "", n)
	}
	cfg := w.config()
	cfg.Since = Earliest
	e := w.read(cfg).expect(0, 1, 2)
	cfg.Since = e.Cursor
	w.read(cfg).expect(3, 4)
}

func TestGapsAreToldApart(t *testing.T) {
	w := newWorld(t)
	w.Publish("open-app", "", 0)
	w.Publish("open-app", "", 1)
	w.Publish("open-app", "", 2)
	cfg := w.config()
	cfg.Since = Earliest
	first := w.read(cfg).expect(0)
	ctx, cancel := context.WithTimeout(context.Background(), edgetest.Patience)
	defer cancel()
	stream, err := w.JS.Stream(ctx, subject.Stream(subject.Shard("open-app", edgetest.Shards)))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeKeep(1)); err != nil {
		t.Fatal(err)
	}
	cfg.Since = first.Cursor
	w.Stop() // its ring still has them
	w.Up()
	r := w.read(cfg)
	gap := next(t, "a gap", r.events)
	if gap.Gap == nil || gap.Gap.Reason != "retention" || gap.Gap.After != first.Cursor || gap.Gap.Before == "" || gap.Gap.Message == "" {
		t.Fatalf("got %s, want a gap", gap.JSON)
	}
	r.expect(2)
}

func TestTokensAreRefreshedAndTheSocketStaysOpen(t *testing.T) {
	w := newWorld(t)
	var asked atomic.Int32
	cfg := w.config()
	cfg.Application = "secret-app"
	cfg.Token = func(context.Context) (string, error) {
		if asked.Add(1) == 2 {
			return "", errors.New("not now") // the next one comes in time
		}
		return w.Token("alice", 6*time.Second), nil
	}
	r := w.read(cfg)
	r.open()
	end := time.Now().Add(7 * time.Second)
	w.Eventually("the first token is over", func() bool { return asked.Load() >= 4 && time.Now().After(end) })
	w.Publish("secret-app", "", 1)
	r.expect(1)
	select {
	case err := <-r.waits:
		t.Errorf("the socket was closed: %v", err)
	default:
	}
}

func TestAnExpiredTokenIsReplacedByAFreshOneAndNothingIsMissed(t *testing.T) {
	w := newWorld(t)
	var asked atomic.Int32
	cfg := w.config()
	cfg.Application = "secret-app"
	cfg.Token = func(ctx context.Context) (string, error) {
		if asked.Add(1) == 2 { // the refresh hangs until the socket has ended
			<-ctx.Done()
			return "", ctx.Err()
		}
		return w.Token("alice", 3*time.Second), nil
	}
	r := w.read(cfg)
	r.open()
	w.Publish("secret-app", "", 1)
	r.expect(1)
	var closed *ClosedError
	if err := next(t, "the token expires", r.waits); !errors.As(err, &closed) || closed.Code != 1008 || closed.Reason != "JWT token expired" {
		t.Fatalf("the socket ended with %v, want 1008 JWT token expired", err)
	}
	w.Publish("secret-app", "", 2)
	r.open()
	r.expect(2)
}

func TestAnAPIKeySignsIn(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	cfg.Application, cfg.User, cfg.APIKey = "secret-app", "alice", "secret"
	r := w.read(cfg)
	r.open()
	w.Publish("secret-app", "", 1)
	r.expect(1)
}

func TestRefusalsEndTheStreamAndSayWhy(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name   string
		change func(*Config)
		status int
		text   string
	}{
		{"no such application", func(c *Config) { c.Application = "nothing" }, http.StatusNotFound, "Resource not found: Application / nothing"},
		{"a private one", func(c *Config) { c.Application = "secret-app" }, http.StatusNotFound, "Resource not found: Application / secret-app"},
		{"a wrong key", func(c *Config) { c.User, c.APIKey = "alice", "wrong" }, http.StatusForbidden, "Forbidden"},
		{"a bad token", func(c *Config) { c.Token = func(context.Context) (string, error) { return "bad", nil } }, http.StatusForbidden, "Forbidden"},
		{"a bad place", func(c *Config) { c.Since = "yesterday" }, http.StatusBadRequest, ""},
	} {
		cfg := w.config()
		c.change(&cfg)
		err := next(t, c.name, w.read(cfg).ended)
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Status != c.status || c.text != "" && refused.Message != c.text {
			t.Errorf("%s: ended with %v, want %d %s", c.name, err, c.status, c.text)
		}
	}
}

func TestTheOperatorsDisconnectIsHeeded(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	cfg.GiveUp = 30 * time.Second // less than the minute to wait
	r := w.read(cfg)
	r.open()
	w.Eventually("the socket is closed", func() bool { return w.Disconnect("open-app") == `{"disconnected":1}`+"\n" })
	var closed *ClosedError
	if err := next(t, "the client gives up", r.ended); !errors.As(err, &closed) || closed.Reason != "Disconnected by the operator" {
		t.Errorf("ended with %v", err)
	}
}

func TestGivingUpEndsTheStreamWithItsReason(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	w.Stop()
	cfg.GiveUp = time.Nanosecond
	if err := next(t, "the client gives up", w.read(cfg).ended); err == nil {
		t.Error("ended without an error")
	}
}

func TestTheEndOfTheContextClosesTheSocketWith1000(t *testing.T) {
	w := newWorld(t)
	r := w.read(w.config())
	r.open()
	w.Eventually("the socket counts", func() bool { return w.Metric(`drogue_connections{protocol="ws",type="integration"}`) == 1 })
	r.cancel()
	if err := next(t, "the loop ends", r.ended); err != nil {
		t.Errorf("the loop ended with %v", err)
	}
	w.Eventually("the socket is gone", func() bool { return w.Metric(`canopy_edge_closed_total{code="1000"}`) == 1 })
}

func TestLeavingTheLoopClosesTheSocketWith1000(t *testing.T) {
	w := newWorld(t)
	w.Publish("open-app", "", 0)
	cfg := w.config()
	cfg.Since = Earliest
	for _, err := range Events(context.Background(), cfg) {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	w.Eventually("the socket is gone", func() bool { return w.Metric(`canopy_edge_closed_total{code="1000"}`) == 1 })
}

func TestAMessageAboveTheLimitIsSteppedOver(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	cfg.MaxMessage = 1000
	var gaps []*Gap
	n := 0
	w.Publish("open-app", "", 1)
	w.Publish("open-app", strings.Repeat("long", 300), 2) // the channel stands in the event
	w.Publish("open-app", "", 3)
	cfg.Since = Earliest
	cfg.OnWait = func(err error, _ time.Duration) { t.Errorf("the connection ended: %v", err) }
	for e, err := range Events(t.Context(), cfg) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Gap != nil {
			if e.Gap.Reason != GapTooBig || e.Gap.Bytes < 1200 || e.Cursor == "" || e.Gap.Event != e.Cursor {
				t.Errorf("told: %+v of %+v", *e.Gap, e)
			}
			gaps = append(gaps, e.Gap)
			continue
		}
		if n++; n == 2 {
			if string(e.Data) != `{"n":3}` {
				t.Errorf("then came %s", e.Data)
			}
			break
		}
	}
	if len(gaps) != 1 {
		t.Errorf("told %d times", len(gaps))
	}
}

func TestAMemberOfAGroupLeavesWhatIsTooBigToOthers(t *testing.T) {
	w := newWorld(t)
	small, large := w.config(), w.config()
	small.Group, large.Group, small.MaxMessage = "g", "g", 1000
	a := w.read(small)
	a.open()
	w.Publish("open-app", strings.Repeat("long", 300), 1)
	if err := next(t, "the socket ends", a.waits); !errors.Is(err, ErrTooBig) {
		t.Errorf("the socket ended with %v", err)
	}
	b := w.read(large)
	b.open()
	b.expect(1)
}

func TestMembersOfAGroupSplitEventsAndKeepThemOverARestart(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	cfg.Group = "workers"
	one, two := w.read(cfg), w.read(cfg)
	one.open()
	two.open()
	for n := range 10 {
		w.Publish("open-app", "", n)
	}
	seen := make(map[int]int)
	collect := func(r *reader) {
		select {
		case e := <-r.events:
			n, err := strconv.Atoi(e.ID)
			if err != nil {
				t.Fatalf("got %s", e.JSON)
			}
			seen[n]++
		default:
		}
	}
	all := func(n int) func() bool {
		return func() bool { collect(one); collect(two); return len(seen) >= n }
	}
	w.Eventually("ten events", all(10))
	w.Stop()
	for n := range 10 {
		w.Publish("open-app", "", 10+n)
	}
	w.Up()
	w.Eventually("twenty events", all(20))
}

func TestAMemberThatLeavesAfterAnEventHasAcknowledgedIt(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	cfg.Group = "workers"
	first := w.read(cfg) // makes the group
	first.open()
	first.cancel()
	_ = next(t, "the first member has left", first.ended)
	for n := range 20 {
		w.Publish("open-app", "", n)
		for e, err := range Events(context.Background(), cfg) {
			if err != nil {
				t.Fatal(err)
			}
			if e.ID != fmt.Sprint(n) {
				t.Fatalf("member %d got event %s", n, e.JSON)
			}
			break
		}
	}
}
