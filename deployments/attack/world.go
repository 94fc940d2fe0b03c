//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"

	"canopy/bench/load"
	"canopy/bench/under"
	"canopy/deployments/local/issuer"
)

const (
	eventSize = 512 // bytes of an event's JSON

	// applications: that of the honest is load.Application; both are public.
	archive = "archive" // whose log is long

	member   = "alice"   // of load.Application
	stranger = "mallory" // has signed in, and is a member of nothing

	tokenTTL = time.Hour
)

// world is what is attacked.
type world struct {
	dir         string
	nats        *under.NATS
	client      *nats.Conn
	stream      *load.Stream
	issuer      *issuer.Issuer
	server      *http.Server
	key         string // the member's API key
	plain, over *under.Edge
}

// groupsPerUser is how many groups the stranger may make at once: few, so that an attack that
// gets little of a busy machine comes that far.
const groupsPerUser = 10

// newWorld starts it. If it fails nothing is left running.
func newWorld(ctx context.Context, o options) (w *world, err error) {
	w = &world{key: rand.Text()}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.stop())
		}
	}()
	if w.dir, err = os.MkdirTemp("", "canopy-attack-"); err != nil {
		return w, fmt.Errorf("make a folder: %w", err)
	}
	if w.nats, err = under.StartNATS(filepath.Join(w.dir, "nats")); err != nil {
		return w, err
	}
	if w.client, err = nats.Connect(w.nats.URL()); err != nil {
		return w, fmt.Errorf("connect to NATS: %w", err)
	}
	if w.stream, err = load.OpenStream(ctx, w.client, load.Application, eventSize); err != nil {
		return w, err
	}
	old, err := w.stream.Of(archive)
	if err != nil {
		return w, err
	}
	if err := load.PublishBatches(ctx, w.client, old.Messages(o.history)); err != nil {
		return w, err
	}
	if err := w.startIssuer(); err != nil {
		return w, err
	}
	env := []string{
		"OAUTH__ISSUER_URL=http://" + w.server.Addr, "OAUTH__CLIENTS__0__CLIENT_ID=canopy",
		"EDGE__BUFFERS__SOCKET_BYTES=" + o.socketBytes,
		fmt.Sprintf("EDGE__LIMITS__NEW_GROUPS_PER_USER=%d", groupsPerUser),
	}
	if w.plain, err = w.startEdge(ctx, o, "plain", env); err != nil {
		return w, err
	}
	certificate, key, err := w.writeCertificate()
	if err != nil {
		return w, err
	}
	w.over, err = w.startEdge(ctx, o, "tls", append(env,
		"HTTP__DISABLE_TLS=false", "HTTP__CERT_BUNDLE_FILE="+certificate, "HTTP__KEY_FILE="+key))
	return w, err
}

func (w *world) startIssuer() (err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("start issuer: %w", err)
	}
	w.server = &http.Server{Addr: listener.Addr().String(), ReadHeaderTimeout: time.Minute}
	w.issuer, err = issuer.New(issuer.Config{URL: "http://" + w.server.Addr, Audience: "canopy"})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	w.server.Handler = w.issuer.Handler()
	go func() { _ = w.server.Serve(listener) }() // until stop closes it
	return nil
}

func (w *world) startEdge(ctx context.Context, o options, name string, env []string) (*under.Edge, error) {
	dir := filepath.Join(w.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	sum := sha256.Sum256([]byte(w.key))
	applications := "applications:\n  " + archive + ": {public: true}\n  " + load.Application +
		": {public: true, members: {" + member + ": [read]}}\napi_keys:\n  - {user: " + member + ", sha256: " + hex.EncodeToString(sum[:]) + "}\n"
	return under.StartEdge(ctx, under.EdgeConfig{
		Program: o.edge, NATS: w.nats.URL(), Dir: dir, Env: env, Applications: applications,
	})
}

// writeCertificate makes one for 127.0.0.1 that is signed by itself.
func (w *world) writeCertificate() (certificate, key string, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("make certificate: %w", err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "edge under attack"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, private.Public(), private)
	if err != nil {
		return "", "", fmt.Errorf("make certificate: %w", err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", fmt.Errorf("make certificate: %w", err)
	}
	certificate, key = filepath.Join(w.dir, "tls.crt"), filepath.Join(w.dir, "tls.key")
	return certificate, key, errors.Join(
		os.WriteFile(certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
}

// edges are those that are attacked, by name.
func (w *world) edges() map[string]*under.Edge {
	return map[string]*under.Edge{"plain": w.plain, "tls": w.over}
}

// logs are how many lines each edge has logged, by name.
func (w *world) logs() map[string]int {
	lines := map[string]int{}
	for name := range w.edges() {
		b, err := os.ReadFile(filepath.Join(w.dir, name, "edge.log"))
		if err != nil {
			lines[name] = -1
			continue
		}
		lines[name] = bytes.Count(b, []byte("\n"))
	}
	return lines
}

// stop ends everything, and keeps the edges' logs if something failed to end.
func (w *world) stop() error {
	var errs []error
	for _, e := range w.edges() {
		if e != nil {
			errs = append(errs, e.Stop())
		}
	}
	if w.client != nil {
		w.client.Close()
	}
	if w.server != nil {
		errs = append(errs, w.server.Close())
	}
	if w.nats != nil {
		errs = append(errs, w.nats.Stop())
	}
	if err := errors.Join(errs...); err != nil || w.dir == "" {
		return err
	}
	return os.RemoveAll(w.dir)
}

// publisher sends events to the honest until it is stopped.
type publisher struct {
	cancel context.CancelFunc
	done   chan struct{}
	sent   uint64
	err    error
}

func publish(ctx context.Context, s *load.Stream, rate float64) *publisher {
	ctx, cancel := context.WithCancel(ctx)
	p := &publisher{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			// What was begun is finished, so that the count is exact.
			if p.err = s.Publish(context.WithoutCancel(ctx), 1, 0); p.err != nil {
				return
			}
			p.sent++
		}
	}()
	return p
}

// stop ends it and gives the number of events that were sent.
func (p *publisher) stop() (uint64, error) {
	p.cancel()
	<-p.done
	return p.sent, p.err
}
