package client

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oauth2-proxy/mockoidc"
	"go.uber.org/zap/zaptest"

	"canopy/edge/gateway"
	"canopy/shared/config"
	"canopy/shared/event"
	"canopy/shared/natstest"
)

const (
	shards   = 2
	patience = 30 * time.Second

	applications = `
applications:
  open-app:
    public: true
  "with/slash and space":
    public: true
  secret-app:
    members:
      alice: [read]
api_keys:
  - user: alice
    sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b # "secret"
`
)

// world is a real NATS and a real edge on a port that it keeps.
type world struct {
	t      *testing.T
	nats   *natstest.Server
	js     jetstream.JetStream
	issuer *mockoidc.MockOIDC
	file   string
	addr   string // of the edge
	admin  string
	stop   func()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel() // they wait more than they work
	server := natstest.Start(t)
	w := &world{t: t, nats: server, js: natstest.Streams(t, server.Connect(), shards)}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if w.issuer, err = mockoidc.NewServer(key); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.issuer.Start(ln, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.issuer.Shutdown() })
	w.file = filepath.Join(t.TempDir(), "applications.yaml")
	if err := os.WriteFile(w.file, []byte(applications), 0o600); err != nil {
		t.Fatal(err)
	}
	w.addr = "127.0.0.1:0"
	w.up()
	return w
}

// up starts the edge, on the port that it had before.
func (w *world) up() {
	w.t.Helper()
	cfg, err := config.Read("", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	cfg.NATS.URL = w.nats.URL()
	cfg.HTTP.BindAddr, cfg.Runtime.Health.BindAddr = w.addr, "127.0.0.1:0"
	cfg.Edge.ApplicationsFile, cfg.Edge.Drain = w.file, 10*time.Millisecond
	cfg.OAuth.Clients = map[string]config.OAuthClient{"0": {ClientID: w.issuer.ClientID, IssuerURL: w.issuer.Issuer()}}
	ctx, cancel := context.WithCancel(context.Background())
	ended, bound := make(chan error, 1), make(chan gateway.Addrs, 1)
	log := zaptest.NewLogger(w.t)
	go func() { ended <- gateway.Run(ctx, cfg, log, func(a gateway.Addrs) { bound <- a }) }()
	select {
	case a := <-bound:
		w.addr, w.admin = a.HTTP.String(), a.Health.String()
	case err := <-ended:
		cancel()
		w.t.Fatalf("the edge did not start: %v", err)
	}
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Errorf("the edge ended with %v", err)
		}
	})
	w.t.Cleanup(w.stop)
	w.eventually("the edge is ready", func() bool {
		answer, err := http.Get("http://" + w.admin + "/readiness")
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}

// disconnect lets the operator close every socket of an application.
func (w *world) disconnect(application string) string {
	w.t.Helper()
	answer, err := http.Post("http://"+w.admin+"/debug/disconnect?application="+application, "", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(body)
}

// publish puts event n into the log.
func (w *world) publish(application, channel string, n int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	body := fmt.Sprintf(`{"specversion":"1.0","id":"%d","type":"t","source":"s","subject":%q,"time":"2026-01-02T03:04:05Z","data":{"n":%d},"application":%q,"device":"d%d"}`,
		n, channel, n, application, n%2)
	m := natstest.Message(shards, application, channel, body)
	m.Header.Set(event.HeaderDevice, fmt.Sprintf("d%d", n%2))
	if _, err := w.js.PublishMsg(ctx, m); err != nil {
		w.t.Errorf("publish %d: %v", n, err)
	}
}

// token is one of alice's that lives for so long.
func (w *world) token(user string, lifetime time.Duration) string {
	w.t.Helper()
	text, err := w.issuer.Keypair.SignJWT(jwt.MapClaims{
		"iss": w.issuer.Issuer(), "aud": w.issuer.ClientID, "sub": user,
		"exp": time.Now().Add(lifetime).Unix(), "jti": rand.Text(),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return text
}

// config is that of a client of open-app.
func (w *world) config() Config { return Config{Edge: "ws://" + w.addr, Application: "open-app"} }

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			w.t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

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
func (w *world) read(cfg Config) *reader {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &reader{t: w.t, events: make(chan Event, 10_000), waits: make(chan error, 100), opens: make(chan struct{}, 100), ended: make(chan error, 1), cancel: cancel}
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
	w.t.Cleanup(func() { cancel(); <-done })
	return r
}

func next[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("not within %v: %s", patience, what)
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

func (r *reader) open() {
	r.t.Helper()
	next(r.t, "a socket is open", r.opens)
}

// metric reads one sample of the edge; 0 if there is none.
func (w *world) metric(name string) float64 {
	w.t.Helper()
	answer, err := http.Get("http://" + w.admin + "/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				w.t.Fatal(err)
			}
			return value
		}
	}
	return 0
}
