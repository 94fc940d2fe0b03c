//go:build linux

package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"canopy/bench/drain"
)

// ending reads a socket to its end, and gives the close code and reason.
func ending(t *testing.T, conn *websocket.Conn) websocket.CloseError {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		_, _, err := conn.Read(ctx)
		var closed websocket.CloseError
		if errors.As(err, &closed) {
			return closed
		}
		if err != nil {
			t.Fatalf("the socket ended without a close frame: %v", err)
		}
	}
}

func TestNobodyCanTellAPrivateApplicationFromNone(t *testing.T) {
	w := start(t, setup{private: map[string]int32{"private": 1}})
	member := w.open(w.path("private", ""), w.withToken("alice", time.Hour))
	for _, token := range []string{"", "?token=" + w.token("bob", time.Hour)} {
		hidden, missing := w.ask(w.path("private", "")+token), w.ask(w.path("nothing", "")+token)
		if missing = strings.ReplaceAll(missing, w.app("nothing"), w.app("private")); hidden != missing || !strings.HasPrefix(hidden, "404 ") {
			t.Errorf("private: %s; not there: %s", hidden, missing)
		}
	}
	for _, query := range []string{"?token=" + w.token("alice", -time.Minute), "?username=bob&api_key=" + w.apiKey, "?username=alice&api_key=" + w.apiKey + "x"} {
		if got := w.ask(w.path("private", "") + query); got != `403 {"error":"Forbidden","message":"Forbidden"}` {
			t.Errorf("%s: %s", query, got)
		}
	}
	w.produce(w.numbered("private", "", 1, 0))
	if got := decode(t, read(t, member)); got["id"] != "1" {
		t.Errorf("the member got %v", got)
	}
}

// ask opens a socket that is refused, and gives the status and the body.
func (w *world) ask(path string) string {
	w.t.Helper()
	return w.shout("GET " + path + " HTTP/1.1\r\n" + upgradeHeaders + "\r\n")
}

func TestWithdrawnAccessClosesItsSocketsAndNoOthers(t *testing.T) {
	w := start(t, setup{public: map[string]int32{"stays": 1, "goes": 1}, private: map[string]int32{"private": 1}})
	healthy := w.fleet("stays", "", 20)
	member := w.open(w.path("private", ""), w.withKey())
	gone := w.open(w.path("goes", ""), nil)
	load := w.startLoad(200, 0, source{"stays", 0, ""}, source{"goes", 0, ""})
	eventually(t, "events arrive", func() bool { return had(healthy) > 100 })
	withdrawn := time.Now()
	w.writeApplications([]string{"goes", "private"})
	for what, conn := range map[string]*websocket.Conn{"public": gone, "private": member} {
		if c := ending(t, conn); c.Code != websocket.StatusPolicyViolation || c.Reason != "Access withdrawn" {
			t.Errorf("%s: closed with %v, want 1008 Access withdrawn", what, c)
		}
	}
	if took := time.Since(withdrawn); took > 5*time.Second {
		t.Errorf("withdrawing access took %v, want at most 5 s", took)
	}
	if got := w.ask(w.path("goes", "")); !strings.HasPrefix(got, "404 ") {
		t.Errorf("the application that is gone answers %s", got)
	}
	expectAll(t, "the application that stays", healthy, load.stop())
}

func TestSocketEndsWithItsTokenUnlessThatIsRefreshed(t *testing.T) {
	w := start(t, setup{private: map[string]int32{"private": 1}})
	short := w.token("alice", 3*time.Second)
	path := w.path("private", "") + "?token=" + short
	ends, stays := w.open(path, nil), w.open(path, nil)
	byKey := w.fleet("private", "", 1, func(cfg *drain.Config) { cfg.Header = w.withKey() })
	message, err := json.Marshal(map[string]string{"RefreshAccessToken": w.token("alice", time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := stays.Write(ctx, websocket.MessageText, message); err != nil {
		t.Fatal(err)
	}
	c := ending(t, ends)
	// Within a second, and half of one more for a machine that is busy with the tests.
	if late := time.Since(expiry(t, short)); late < 0 || late > 1500*time.Millisecond {
		t.Errorf("the socket was closed %v after its token's end", late)
	}
	if c.Code != websocket.StatusPolicyViolation || c.Reason != "JWT token expired" {
		t.Errorf("closed with %v, want 1008 JWT token expired", c)
	}
	w.produce(w.numbered("private", "", 1, 0))
	if got := decode(t, read(t, stays)); got["id"] != "1" {
		t.Errorf("the refreshed socket got %v", got)
	}
	expectAll(t, "the socket with an API key", byKey, 1)
}

// expiry reads when a token ends.
func expiry(t *testing.T, token string) time.Time {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("token %q has %d parts", token, len(parts))
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Expiry int64 `json:"exp"`
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		t.Fatal(err)
	}
	return time.Unix(claims.Expiry, 0)
}
