package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"canopy/edge/internal/certtest"
	"canopy/shared/config"
	"canopy/shared/natstest"
)

const (
	shards   = 3
	patience = 20 * time.Second

	applications = `
applications:
  open-app:
    public: true
    members:
      alice: [read]
  other-app:
    public: true
  secret-app:
    members:
      alice: [read]
api_keys:
  - user: alice
    sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b # "secret"
`
)

// stack is an edge with the NATS server that it reads from.
type stack struct {
	t       *testing.T
	log     *zap.Logger
	nats    *natstest.Server // nil in a cluster
	natsURL string           // of NATS
	js      jetstream.JetStream
	http    string
	admin   string
	file    string
	tls     bool
	packs   bool // dial offers compression, which must be accepted
	stop    func() error

	published int
}

// startEdge runs an edge, with a NATS server of its own, until the test ends. change may
// be nil.
func startEdge(t *testing.T, change func(*config.Config)) *stack {
	t.Helper()
	return startEdgeLogging(t, zaptest.NewLogger(t), change)
}

// startEdgeLogging is startEdge with a log of its own.
func startEdgeLogging(t *testing.T, log *zap.Logger, change func(*config.Config)) *stack {
	t.Helper()
	s := startUnreadyEdge(t, log, change)
	s.waitReady()
	return s
}

// startUnreadyEdge is startEdgeLogging for an edge that lacks something: it listens.
func startUnreadyEdge(t *testing.T, log *zap.Logger, change func(*config.Config)) *stack {
	t.Helper()
	server := natstest.Start(t)
	s := &stack{t: t, log: log, nats: server, natsURL: server.URL(), js: natstest.Streams(t, server.Connect(), shards)}
	s.launch(change)
	return s
}

// onCluster runs an edge on each node of a cluster of three.
func onCluster(t *testing.T, cluster *natstest.Cluster, change func(*config.Config)) []*stack {
	t.Helper()
	js := cluster.Streams(shards)
	var edges []*stack
	for i := range cluster.Nodes {
		// Its own node first, the others when that is away.
		urls := strings.Split(cluster.URL(), ",")
		urls[0], urls[i] = urls[i], urls[0]
		s := &stack{t: t, log: zaptest.NewLogger(t), natsURL: urls[0], js: js}
		s.run(func(cfg *config.Config) {
			cfg.NATS.URL = strings.Join(urls, ",")
			if change != nil {
				change(cfg)
			}
		})
		edges = append(edges, s)
	}
	return edges
}

// another runs one more edge on the same NATS.
func (s *stack) another(change func(*config.Config)) *stack {
	s.t.Helper()
	o := &stack{t: s.t, log: s.log, nats: s.nats, natsURL: s.natsURL, js: s.js, published: s.published}
	o.run(change)
	return o
}

// run runs the edge, which gets ready, until the test ends.
func (s *stack) run(change func(*config.Config)) {
	s.t.Helper()
	s.launch(change)
	s.waitReady()
}

// launch runs the edge until the test ends.
func (s *stack) launch(change func(*config.Config)) {
	t := s.t
	t.Helper()
	s.file = filepath.Join(t.TempDir(), "applications.yaml")
	if err := os.WriteFile(s.file, []byte(applications), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Read("", nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.NATS.URL = s.natsURL
	cfg.HTTP.BindAddr, cfg.Runtime.Health.BindAddr = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Edge.ApplicationsFile = s.file
	cfg.Edge.Drain = 100 * time.Millisecond
	if overTLS(t) {
		s.secure(&cfg)
	}
	if change != nil {
		change(&cfg)
	}
	s.tls = cfg.HTTP.TLS()
	if overCompression(t) {
		cfg.Edge.CompressFrom, s.packs = 1, true
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended, bound := make(chan error, 1), make(chan Addrs, 1)
	go func() { ended <- Run(ctx, cfg, s.log, func(a Addrs) { bound <- a }) }()
	select {
	case a := <-bound:
		s.http, s.admin = a.HTTP.String(), a.Health.String()
	case err := <-ended:
		t.Fatalf("edge did not start: %v", err)
	}
	stopped := false
	s.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Errorf("edge ended with %v", err)
		}
	})
}

func (s *stack) waitReady() {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		answer, err := http.Get("http://" + s.admin + "/readiness")
		if err == nil {
			body, _ := io.ReadAll(answer.Body)
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
			err = fmt.Errorf("%s: %s", answer.Status, body)
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("edge is not ready after %s: %v", patience, err)
		}
	}
}

func (s *stack) dial(path string, header http.Header) *websocket.Conn {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: certtest.Client()}}
	options := &websocket.DialOptions{HTTPHeader: header, HTTPClient: client}
	if s.packs {
		options.CompressionMode, options.CompressionThreshold = websocket.CompressionNoContextTakeover, 1
	}
	c, answer, err := websocket.Dial(ctx, s.url()+path, options)
	if err != nil {
		s.t.Fatalf("open %s: %v", path, err)
	}
	const agreed = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	if got := answer.Header.Get("Sec-WebSocket-Extensions"); got != "" != s.packs || s.packs && got != agreed {
		s.t.Fatalf("open %s: the edge accepted %q", path, got)
	}
	s.t.Cleanup(func() { _ = c.CloseNow() })
	return c
}

// publish puts a numbered event into the log, once, and waits for the acknowledgement,
// also if NATS is on its way back.
func (s *stack) publish(application, channel string, n int) {
	s.t.Helper()
	s.published++
	if err := s.publishAs(strconv.Itoa(s.published), application, channel, n); err != nil {
		s.t.Fatal(err)
	}
}

func numberedEvent(id, application string, n int) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"type":"t","source":"s","data":{"app":%q,"n":%d}}`, id, application, n)
}

// publishAs is publish for any goroutine; id tells events apart.
func (s *stack) publishAs(id, application, channel string, n int) error {
	body := numberedEvent(id, application, n)
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		ctx, cancel := context.WithTimeout(context.Background(), patience/20)
		_, err = s.js.PublishMsg(ctx, natstest.Message(shards, application, channel, body), jetstream.WithMsgID(id))
		cancel()
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("publish %d to %s: %w", n, application, err)
}

type received struct {
	ID   string
	Type string
	Data struct {
		App string
		N   int

		Reason, After, Before string // of a gap event
	}
	Cursor string
}

func read(t *testing.T, c *websocket.Conn) received {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	kind, payload, err := c.Read(ctx)
	if err != nil {
		t.Fatalf("read an event: %v", err)
	}
	if kind != websocket.MessageText {
		t.Fatalf("read %s %q", kind, payload)
	}
	return parse(t, payload)
}

// parse reads an event. It may be called by any goroutine.
func parse(t *testing.T, payload []byte) received {
	t.Helper()
	var r received
	if err := json.Unmarshal(payload, &r); err != nil {
		t.Errorf("read %q: %v", payload, err)
	}
	return r
}

func TestEventsArriveInOrderFromTheMomentOfThe101(t *testing.T) {
	s := startEdge(t, nil)
	s.publish("open-app", "", 0)
	c := s.dial("/open-app", nil)
	other := s.dial("/other-app/", nil)
	for n := 1; n <= 100; n++ {
		s.publish("open-app", "", n)
	}
	s.publish("other-app", "", 7)
	for n := 1; n <= 100; n++ {
		if r := read(t, c); r.Data.N != n || r.Data.App != "open-app" || len(r.Cursor) != 37 {
			t.Fatalf("event %d is %+v", n, r)
		}
	}
	if r := read(t, other); r.Data.N != 7 || r.Data.App != "other-app" {
		t.Fatalf("the other application got %+v", r)
	}
}

func TestAChannelBringsItsEventsAndNoOthers(t *testing.T) {
	s := startEdge(t, nil)
	c := s.dial("/open-app/a%2Fb%20c", nil)
	for n := range 10 {
		s.publish("open-app", []string{"a/b c", "a/b", "", "a/b c "}[n%4], n)
	}
	for _, n := range []int{0, 4, 8} {
		if r := read(t, c); r.Data.N != n {
			t.Fatalf("got event %d, want %d", r.Data.N, n)
		}
	}
}

func TestAnApplicationThatIsTakenAwayClosesItsSockets(t *testing.T) {
	s := startEdge(t, nil)
	gone, stays := s.dial("/other-app", nil), s.dial("/open-app", nil)
	left := strings.Replace(applications, "other-app", "another-app", 1)
	if err := os.WriteFile(s.file, []byte(left), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, _, err := gone.Read(ctx)
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != websocket.StatusPolicyViolation || closed.Reason != "Access withdrawn" {
		t.Errorf("the socket ended with %v, want 1008 Access withdrawn", err)
	}
	s.publish("open-app", "", 1)
	if r := read(t, stays); r.Data.N != 1 {
		t.Errorf("the other socket got %+v", r)
	}
}

func TestDrainClosesEverySocketWith1001AndItsCursor(t *testing.T) {
	s := startEdge(t, nil)
	var sockets []*websocket.Conn
	for range 20 {
		sockets = append(sockets, s.dial("/open-app", nil))
	}
	s.publish("open-app", "", 1)
	cursor := ""
	for _, c := range sockets {
		cursor = read(t, c).Cursor
	}
	ended := make(chan error, 1)
	go func() { ended <- s.stop() }()
	for _, c := range sockets {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, _, err := c.Read(ctx)
		cancel()
		var closed websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != websocket.StatusGoingAway || !strings.HasSuffix(closed.Reason, " since="+cursor) {
			t.Errorf("a socket ended with %v, want 1001 with since=%s", err, cursor)
		}
	}
	if err := <-ended; err != nil {
		t.Errorf("the edge ended with %v", err)
	}
}
