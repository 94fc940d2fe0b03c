//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/coder/websocket"

	"canopy/bench/drain"
)

// fleet opens sockets that must see a whole sequence, from its first event on.
func (w *world) fleet(name, channel string, sockets int, change ...func(*drain.Config)) *drain.Fleet {
	w.t.Helper()
	cfg := drain.Config{URL: "ws://" + w.edge.HTTP + w.path(name, channel), Sockets: sockets, First: 1}
	for _, c := range change {
		c(&cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	f, err := drain.Dial(ctx, cfg)
	if err != nil {
		w.t.Fatalf("open %d sockets of %s: %v", sockets, name, err)
	}
	w.t.Cleanup(f.Close)
	return f
}

// anyFirst lets sockets join a sequence that is under way.
func anyFirst(cfg *drain.Config) { cfg.First = 0 }

// path is what a socket asks for. An empty channel is none.
func (w *world) path(name, channel string) string {
	path := "/" + url.PathEscape(w.app(name))
	if channel != "" {
		path += "/" + url.PathEscape(channel)
	}
	return path
}

// expectAll waits until every socket of f has had the events 1 to n, and fails unless
// that is all that happened to it.
func expectAll(t *testing.T, what string, f *drain.Fleet, n uint64) drain.Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := f.Wait(ctx, func(s drain.Snapshot) bool {
		return s.Events >= n*uint64(s.Sockets) || s.Open < s.Sockets || s.Fault() != nil
	})
	if err != nil || s.Events != n*uint64(s.Sockets) {
		t.Errorf("%s: %d sockets had %d events, want %d each: %v", what, s.Sockets, s.Events, n, err)
	}
	expectHealthy(t, what, s)
	return s
}

// expectHealthy fails if anything was lost, repeated or out of order, or a socket closed.
func expectHealthy(t *testing.T, what string, s drain.Snapshot) {
	t.Helper()
	if err := s.Fault(); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if s.Open != s.Sockets || s.Others > 0 {
		t.Errorf("%s: %d of %d sockets are open (closes %v %v), %d foreign messages", what, s.Open, s.Sockets, s.Closes, s.Reasons, s.Others)
	}
}

// had is how many events the fleet's sockets have had on average.
func had(f *drain.Fleet) uint64 {
	s := f.Snapshot()
	return s.Events / uint64(s.Sockets)
}

// dial opens a socket; status is that of a refusal, or 101.
func (w *world) dial(path string, header http.Header) (conn *websocket.Conn, status int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, response, err := websocket.Dial(ctx, "ws://"+w.edge.HTTP+path, &websocket.DialOptions{HTTPHeader: header})
	if response == nil {
		w.t.Fatalf("open %.300s: %v", path, err)
	}
	if conn != nil {
		conn.SetReadLimit(-1)
		w.t.Cleanup(func() { _ = conn.CloseNow() })
	}
	return conn, response.StatusCode
}

// open opens a socket that must not be refused.
func (w *world) open(path string, header http.Header) *websocket.Conn {
	w.t.Helper()
	conn, status := w.dial(path, header)
	if conn == nil {
		w.t.Fatalf("open %.300s: status %d", path, status)
	}
	return conn
}

// read gives the next message of a socket.
func read(t *testing.T, conn *websocket.Conn) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	kind, text, err := conn.Read(ctx)
	if err != nil {
		t.Fatalf("read an event: %v", err)
	}
	if kind != websocket.MessageText {
		t.Errorf("got a binary message: %q", text)
	}
	return string(text)
}

// withKey signs in by alice's API key.
func (w *world) withKey() http.Header {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth("alice", w.apiKey)
	return r.Header
}

// withToken signs in by a token of the issuer.
func (w *world) withToken(user string, lifetime time.Duration) http.Header {
	w.t.Helper()
	return http.Header{"Authorization": {"Bearer " + w.token(user, lifetime)}}
}

func (w *world) token(user string, lifetime time.Duration) string {
	w.t.Helper()
	response, err := http.PostForm("http://"+w.issuer+"/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {user}, "client_secret": {user}, "ttl": {lifetime.String()},
	})
	if err != nil {
		w.t.Fatalf("ask for a token: %v", err)
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Token == "" {
		w.t.Fatalf("ask for a token: %s, %v", response.Status, err)
	}
	return answer.Token
}

// decode gives the members of an event.
func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	var members map[string]any
	if err := json.Unmarshal([]byte(text), &members); err != nil {
		t.Fatalf("decode %.300s: %v", text, err)
	}
	return members
}
