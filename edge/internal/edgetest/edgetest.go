// Package edgetest runs a real edge, with a NATS server and an OpenID issuer, for the tests of
// clients.
package edgetest

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
	"canopy/edge/internal/certtest"
	"canopy/shared/config"
	"canopy/shared/event"
	"canopy/shared/natstest"
)

const (
	// Shards is the number of streams.
	Shards = 2
	// Patience is how long anything may take.
	Patience = 30 * time.Second

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

// World is a real NATS and a real edge on a port that it keeps.
type World struct {
	T      *testing.T
	nats   *natstest.Server
	JS     jetstream.JetStream
	issuer *mockoidc.MockOIDC
	file   string
	Addr   string // of the edge
	admin  string
	tls    config.HTTP // the files of its certificate, if it has one
	Stop   func()      // ends the edge
}

// Start runs all of it until the test ends, beside other tests, with the applications
// open-app, "with/slash and space" and secret-app, which alice may read, whose API key is
// "secret".
func Start(t *testing.T) *World {
	t.Helper()
	t.Parallel() // they wait more than they work
	server := natstest.Start(t)
	w := &World{T: t, nats: server, JS: natstest.Streams(t, server.Connect(), Shards)}
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
	w.Addr = "127.0.0.1:0"
	w.Up()
	return w
}

// Secure starts the edge again, now with TLS and a certificate that nobody has signed.
func (w *World) Secure() {
	w.T.Helper()
	folder := w.T.TempDir()
	w.tls.CertBundleFile, w.tls.KeyFile = filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key")
	certificate, key := certtest.New(w.T, 1)
	for name, content := range map[string][]byte{w.tls.CertBundleFile: certificate, w.tls.KeyFile: key} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			w.T.Fatal(err)
		}
	}
	w.Stop()
	w.Up()
}

// Up starts the edge, on the port that it had before.
func (w *World) Up() {
	w.T.Helper()
	cfg, err := config.Read("", nil)
	if err != nil {
		w.T.Fatal(err)
	}
	cfg.NATS.URL = w.nats.URL()
	cfg.HTTP.BindAddr, cfg.Runtime.Health.BindAddr = w.Addr, "127.0.0.1:0"
	cfg.HTTP.CertBundleFile, cfg.HTTP.KeyFile = w.tls.CertBundleFile, w.tls.KeyFile
	cfg.Edge.ApplicationsFile, cfg.Edge.Drain = w.file, 10*time.Millisecond
	cfg.OAuth.Clients = map[string]config.OAuthClient{"0": {ClientID: w.issuer.ClientID, IssuerURL: w.issuer.Issuer()}}
	ctx, cancel := context.WithCancel(context.Background())
	ended, bound := make(chan error, 1), make(chan gateway.Addrs, 1)
	log := zaptest.NewLogger(w.T)
	go func() { ended <- gateway.Run(ctx, cfg, log, func(a gateway.Addrs) { bound <- a }) }()
	select {
	case a := <-bound:
		w.Addr, w.admin = a.HTTP.String(), a.Health.String()
	case err := <-ended:
		cancel()
		w.T.Fatalf("the edge did not start: %v", err)
	}
	w.Stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.T.Errorf("the edge ended with %v", err)
		}
	})
	w.T.Cleanup(w.Stop)
	w.Eventually("the edge is ready", func() bool {
		answer, err := http.Get("http://" + w.admin + "/readiness")
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}

// Disconnect lets the operator close every socket of an application.
func (w *World) Disconnect(application string) string {
	w.T.Helper()
	answer, err := http.Post("http://"+w.admin+"/debug/disconnect?application="+application, "", nil)
	if err != nil {
		w.T.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		w.T.Fatal(err)
	}
	return string(body)
}

// Publish puts event n into the log.
func (w *World) Publish(application, channel string, n int) {
	w.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	body := fmt.Sprintf(`{"specversion":"1.0","id":"%d","type":"t","source":"s","subject":%q,"time":"2026-01-02T03:04:05Z","data":{"n":%d},"application":%q,"device":"d%d"}`,
		n, channel, n, application, n%2)
	m := natstest.Message(Shards, application, channel, body)
	m.Header.Set(event.HeaderDevice, fmt.Sprintf("d%d", n%2))
	if _, err := w.JS.PublishMsg(ctx, m); err != nil {
		w.T.Errorf("publish %d: %v", n, err)
	}
}

// Token is one of alice's that lives for so long.
func (w *World) Token(user string, lifetime time.Duration) string {
	w.T.Helper()
	text, err := w.issuer.Keypair.SignJWT(jwt.MapClaims{
		"iss": w.issuer.Issuer(), "aud": w.issuer.ClientID, "sub": user,
		"exp": time.Now().Add(lifetime).Unix(), "jti": rand.Text(),
	})
	if err != nil {
		w.T.Fatal(err)
	}
	return text
}

// Eventually waits until ok holds, and fails the test if it never does.
func (w *World) Eventually(what string, ok func() bool) {
	w.T.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(Patience); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			w.T.Fatalf("not within %v: %s", Patience, what)
		}
	}
}

// Metric reads one sample of the edge; 0 if there is none.
func (w *World) Metric(name string) float64 {
	w.T.Helper()
	answer, err := http.Get("http://" + w.admin + "/metrics")
	if err != nil {
		w.T.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		w.T.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				w.T.Fatal(err)
			}
			return value
		}
	}
	return 0
}
