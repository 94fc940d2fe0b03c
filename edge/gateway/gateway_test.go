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
	t     *testing.T
	log   *zap.Logger
	nats  *natstest.Server // nil in a cluster
	url   string           // of NATS
	js    jetstream.JetStream
	http  string
	admin string
	file  string
	stop  func() error

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
	server := natstest.Start(t)
	s := &stack{t: t, log: log, nats: server, url: server.URL(), js: natstest.Streams(t, server.Connect(), shards)}
	s.run(change)
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
		s := &stack{t: t, log: zaptest.NewLogger(t), url: urls[0], js: js}
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
	o := &stack{t: s.t, log: s.log, nats: s.nats, url: s.url, js: s.js, published: s.published}
	o.run(change)
	return o
}

// run runs the edge until the test ends.
func (s *stack) run(change func(*config.Config)) {
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
	cfg.NATS.URL = s.url
	cfg.HTTP.BindAddr, cfg.Runtime.Health.BindAddr = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Edge.ApplicationsFile = s.file
	cfg.Edge.Drain = 100 * time.Millisecond
	if change != nil {
		change(&cfg)
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
	s.waitReady()
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
	c, _, err := websocket.Dial(ctx, "ws://"+s.http+path, &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		s.t.Fatalf("open %s: %v", path, err)
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

// publishAs is publish for any goroutine; id tells events apart.
func (s *stack) publishAs(id, application, channel string, n int) error {
	body := fmt.Sprintf(`{"specversion":"1.0","id":%q,"type":"t","source":"s","data":{"app":%q,"n":%d}}`, id, application, n)
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

// basic is the header of an API key.
func basic(user, key string) http.Header {
	r, _ := http.NewRequest("GET", "/", nil)
	r.SetBasicAuth(user, key)
	return r.Header
}

// request sends a request for a socket, its path as it is, and gives the answer.
func (s *stack) request(path string, header http.Header) *http.Response {
	s.t.Helper()
	r, err := http.NewRequest("GET", "http://"+s.http, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	path, query, _ := strings.Cut(path, "?")
	r.URL.Opaque = "//" + s.http + path // bad encodings too
	r.URL.RawQuery = query
	upgrade := http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="}}
	for _, h := range []http.Header{upgrade, header} {
		for k, v := range h {
			r.Header[k] = v
		}
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer
}

func TestRefusals(t *testing.T) {
	s := startEdge(t, nil)
	long := strings.Repeat("x", 10_240)
	for _, c := range []struct {
		name, path string
		header     http.Header
		status     int
		body       string
	}{
		{"no upgrade", "/open-app", http.Header{"Connection": {"close"}, "Upgrade": {"nothing"}}, 400, `"error":"BadRequest"`},
		{"unknown application", "/nobody", nil, 404, `{"error":"NotFound","message":"Resource not found: Application / nobody"}`},
		{"private application", "/secret-app", nil, 404, `"Resource not found: Application / secret-app"`},
		{"unknown key", "/secret-app", basic("alice", "wrong"), 403, `{"error":"Forbidden","message":"Forbidden"}`},
		{"key of somebody else", "/secret-app", basic("bob", "secret"), 403, `"Forbidden"`},
		{"two kinds", "/secret-app?token=x", basic("alice", "secret"), 403, `"Invalid request: `},
		{"token without issuer", "/secret-app?token=x", nil, 403, `"Forbidden"`},
		{"three segments", "/open-app/a/b", nil, 404, `"NotFound"`},
		{"our own paths", "/-/open", nil, 404, `"NotFound"`},
		{"nothing", "/", nil, 404, `"NotFound"`},
		{"double slash", "//open-app", nil, 404, `"NotFound"`},
		{"dots stay", "/open-app/..", nil, 101, ""},
		{"parameter twice", "/open-app?token=a&token=b", nil, 400, `"Parameter given twice: token"`},
		{"unknown parameter", "/open-app?x=1&x=2", nil, 101, ""},
		{"not served yet", "/open-app?group_id=g", nil, 400, `"BadRequest"`},
		{"empty since", "/open-app?since=", nil, 400, `"Bad parameter since: expected a cursor, an RFC 3339 time or earliest: \"\""`},
		{"bad since", "/open-app?since=yesterday", nil, 400, `"Bad parameter since: expected a cursor, an RFC 3339 time or earliest: \"yesterday\""`},
		{"since of a date", "/open-app?since=2026-01-01", nil, 400, `"Bad parameter since: `},
		{"since twice", "/open-app?since=earliest&since=earliest", nil, 400, `"Parameter given twice: since"`},
		{"since and group", "/open-app?since=earliest&group_id=g", nil, 400, `"Parameters exclude each other: group_id and since"`},
		{"device and group", "/open-app?device=d&group_id=g", nil, 400, `"Parameters exclude each other: group_id and device"`},
		{"CR LF and NUL", "/a%0d%0ab%00", nil, 404, `"Resource not found: Application / a\r\nb\u0000"`},
		{"wildcards", "/*%2E%3E", nil, 404, `"NotFound"`},
		{"bad percent-encoding", "/%zz", nil, 400, ""},
		{"10 KB", "/" + long, nil, 404, long[:256] + `"}`},
		{"headers too large", "/open-app", http.Header{"X": {strings.Repeat(long, 4)}}, 431, ""},
		{"key in the query", "/secret-app?username=alice&api_key=secret", nil, 101, ""},
		{"key in the header", "/secret-app", basic("alice", "secret"), 101, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer := s.request(c.path, c.header)
			defer func() { _ = answer.Body.Close() }()
			if answer.StatusCode != c.status {
				t.Errorf("status %s, want %d", answer.Status, c.status)
			}
			if c.status == http.StatusSwitchingProtocols {
				return
			}
			if body, _ := io.ReadAll(answer.Body); !strings.Contains(string(body), c.body) {
				t.Errorf("body %.300s, want %s", body, c.body)
			}
		})
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

func TestMessagesFromClients(t *testing.T) {
	s := startEdge(t, nil)
	for _, c := range []struct {
		message, reason string
		code            websocket.StatusCode
	}{
		{`hello`, "unknown message: expected RefreshAccessToken", websocket.StatusProtocolError},
		{`{"RefreshAccessToken":1}`, "unknown message: expected RefreshAccessToken", websocket.StatusProtocolError},
		{`{"RefreshAccessToken":"x"}`, "Failed to refresh token", websocket.StatusPolicyViolation},
	} {
		socket := s.dial("/open-app", nil)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := socket.Write(ctx, websocket.MessageText, []byte(c.message)); err != nil {
			t.Fatal(err)
		}
		_, _, err := socket.Read(ctx)
		var closed websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != c.code || closed.Reason != c.reason {
			t.Errorf("%s: ended with %v, want %d %s", c.message, err, c.code, c.reason)
		}
	}
}
