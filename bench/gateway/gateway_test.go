//go:build linux

package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"canopy/bench/drain"
	"canopy/bench/load"
	"canopy/deployments/local/issuer"
	"canopy/shared/natstest"
)

const (
	patience = time.Minute
	queue    = 64
)

func startServer(t *testing.T, cfg Config) *server {
	t.Helper()
	s, err := start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// awaitSockets waits until s has n sockets.
func awaitSockets(t *testing.T, s *server, n int) {
	t.Helper()
	for end := time.Now().Add(patience); s.count() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d sockets instead of %d", s.count(), n)
		}
	}
}

func TestEitherLibrarySendsEveryEventToEverySocket(t *testing.T) {
	const sockets, events = 20, queue
	for name := range libraries {
		t.Run(strings.ReplaceAll(name, "/", " "), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			nc := natstest.Start(t).Connect()
			stream, err := load.OpenStream(ctx, nc, load.Application, 512)
			if err != nil {
				t.Fatal(err)
			}
			s := startServer(t, Config{Library: name, NATS: nc.ConnectedUrl(), Application: load.Application, Queue: queue})
			fleet, err := drain.Dial(ctx, drain.Config{URL: s.url(), Sockets: sockets, First: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer fleet.Close()
			awaitSockets(t, s, sockets)
			if err := stream.Publish(ctx, events, 0); err != nil {
				t.Fatal(err)
			}
			seen, err := fleet.Wait(ctx, func(s drain.Snapshot) bool { return s.Events >= sockets*events || s.Fault() != nil })
			if err != nil || seen.Fault() != nil || seen.Events != sockets*events || seen.Open != sockets {
				t.Errorf("%d events, %d sockets open: %v, %v", seen.Events, seen.Open, seen.Fault(), err)
			}
			fleet.Close()
			awaitSockets(t, s, 0)
		})
	}
}

func TestASocketWhoseQueueIsFullIsClosed(t *testing.T) {
	for name := range libraries {
		t.Run(strings.ReplaceAll(name, "/", " "), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			nc := natstest.Start(t).Connect()
			stream, err := load.OpenStream(ctx, nc, load.Application, 64<<10)
			if err != nil {
				t.Fatal(err)
			}
			s := startServer(t, Config{Library: name, NATS: nc.ConnectedUrl(), Application: load.Application, Queue: queue})
			fleet, err := drain.Dial(ctx, drain.Config{URL: s.url(), Sockets: 1, ReceiveBuffer: 4 << 10})
			if err != nil {
				t.Fatal(err)
			}
			defer fleet.Close()
			awaitSockets(t, s, 1)
			if n, err := fleet.Stall(1); n != 1 || err != nil {
				t.Fatalf("%d sockets stalled: %v", n, err)
			}
			// Until the kernel takes no more for a socket that nobody reads.
			for s.count() > 0 {
				if err := stream.Publish(ctx, queue/2, 0); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestOnlyGoodTokensAreLetIn(t *testing.T) {
	var signer *issuer.Issuer
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { signer.Handler().ServeHTTP(w, r) }))
	t.Cleanup(web.Close)
	other, err := issuer.New(issuer.Config{URL: web.URL, Audience: "canopy"})
	if err != nil {
		t.Fatal(err)
	}
	if signer, err = issuer.New(issuer.Config{URL: web.URL, Audience: "canopy"}); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, Config{
		Library: GWS, NATS: natstest.Start(t).Connect().ConnectedUrl(), Application: load.Application, Queue: queue, Issuer: web.URL, Audience: "canopy",
	})
	token := func(by *issuer.Issuer, ttl time.Duration) []string {
		text, err := by.Token("alice", ttl)
		if err != nil {
			t.Fatal(err)
		}
		return []string{text}
	}
	for name, c := range map[string]struct {
		tokens []string
		good   bool
	}{
		"good": {token(signer, time.Hour), true}, "none": {nil, false},
		"expired": {token(signer, -time.Hour), false}, "of another key": {token(other, time.Hour), false},
	} {
		fleet, err := drain.Dial(t.Context(), drain.Config{URL: s.url(), Sockets: 1, Tokens: c.tokens})
		if err == nil {
			fleet.Close()
		}
		var refused *drain.RefusedError
		if c.good != (err == nil) || !c.good && (!errors.As(err, &refused) || refused.Status != http.StatusForbidden) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAFrameIsOneTextMessage(t *testing.T) {
	nc := natstest.Start(t).Connect()
	stream, err := load.OpenStream(t.Context(), nc, load.Application, 512)
	if err != nil {
		t.Fatal(err)
	}
	for name := range libraries {
		s := startServer(t, Config{Library: name, NATS: nc.ConnectedUrl(), Application: load.Application, Queue: queue})
		c, _, err := websocket.Dial(t.Context(), s.url(), nil)
		if err != nil {
			t.Fatal(err)
		}
		awaitSockets(t, s, 1)
		if err := stream.Publish(t.Context(), 1, 0); err != nil {
			t.Fatal(err)
		}
		kind, b, err := c.Read(t.Context())
		if err != nil || kind != websocket.MessageText || !strings.HasSuffix(string(b), `"}`) || !strings.Contains(string(b), `,"cursor":"`) {
			t.Errorf("%s: %v %s: %v", name, kind, b, err)
		}
		_ = c.CloseNow()
	}
}
