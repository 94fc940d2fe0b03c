package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"canopy/shared/config"
)

// askHealth sends a request to the health address and returns the answer's status and body.
func (s *stack) askHealth(method, path string, header http.Header) (int, string) {
	s.t.Helper()
	r, err := http.NewRequest(method, "http://"+s.admin+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for name, values := range header {
		r.Header[name] = values
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.StatusCode, strings.TrimSpace(string(body))
}

// wantClose reads from c until it is closed, and wants that close.
func wantClose(t *testing.T, c *websocket.Conn, code websocket.StatusCode, reason string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		_, _, err := c.Read(ctx)
		if err == nil {
			continue
		}
		var closed websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != code || closed.Reason != reason {
			t.Errorf("the socket ended with %v, want %d %s", err, code, reason)
		}
		return
	}
}

func TestDisconnectClosesTheSocketsOfAUserOrOfAnApplicationAndNoOthers(t *testing.T) {
	s := startEdge(t, nil)
	basic := http.Header{"Authorization": {"Basic YWxpY2U6c2VjcmV0"}}
	alices := []*websocket.Conn{s.dial("/secret-app", basic), s.dial("/open-app", basic)}
	others := []*websocket.Conn{s.dial("/other-app", nil), s.dial("/other-app", nil)}
	stays := s.dial("/open-app", nil)
	if status, body := s.askHealth("POST", "/debug/disconnect?user=alice", nil); status != 200 || body != `{"disconnected":2}` {
		t.Errorf("by user: %d %s", status, body)
	}
	for _, c := range alices {
		wantClose(t, c, websocket.StatusPolicyViolation, "Disconnected by the operator")
	}
	if status, body := s.askHealth("POST", "/debug/disconnect?application=other-app", nil); status != 200 || body != `{"disconnected":2}` {
		t.Errorf("by application: %d %s", status, body)
	}
	for _, c := range others {
		wantClose(t, c, websocket.StatusPolicyViolation, "Disconnected by the operator")
	}
	if status, body := s.askHealth("POST", "/debug/disconnect?user=alice", nil); status != 200 || body != `{"disconnected":0}` {
		t.Errorf("again: %d %s", status, body)
	}
	s.publish("open-app", "", 1)
	if r := read(t, stays); r.Data.N != 1 {
		t.Errorf("the socket of somebody else got %+v", r)
	}
}

func TestDisconnectRefusesWhatItShouldNotDo(t *testing.T) {
	s := startEdge(t, nil)
	stays := s.dial("/open-app", nil)
	for _, c := range []struct {
		method, path string
		header       http.Header
		status       int
	}{
		{"GET", "?application=open-app", nil, http.StatusMethodNotAllowed},
		{"PUT", "?application=open-app", nil, http.StatusMethodNotAllowed},
		{"POST", "", nil, http.StatusBadRequest},
		{"POST", "?user=", nil, http.StatusBadRequest},
		{"POST", "?application=", nil, http.StatusBadRequest},
		{"POST", "?users=alice", nil, http.StatusBadRequest},
		{"POST", "?user=alice&application=open-app", nil, http.StatusBadRequest},
		{"POST", "?application=open-app&application=other-app", nil, http.StatusBadRequest},
		{"POST", "?application=%zz", nil, http.StatusBadRequest},
		{"POST", "?application=open-app", http.Header{"Origin": {"http://elsewhere.example"}}, http.StatusForbidden},
		{"POST", "?application=open-app", http.Header{"Sec-Fetch-Site": {"cross-site"}}, http.StatusForbidden},
	} {
		if status, body := s.askHealth(c.method, "/debug/disconnect"+c.path, c.header); status != c.status {
			t.Errorf("%s %s %v: %d %s, want %d", c.method, c.path, c.header, status, body, c.status)
		}
	}
	s.publish("open-app", "", 1)
	if r := read(t, stays); r.Data.N != 1 {
		t.Errorf("the socket got %+v", r)
	}
}

func TestDisconnectAndGroupsAreClosedWithoutTheTokenWhereOthersReachThem(t *testing.T) {
	const token = "a-token-of-32-characters-exactly"
	right, wrong := http.Header{"Authorization": {"Bearer " + token}}, http.Header{"Authorization": {"Bearer " + token + "x"}}
	for _, c := range []struct {
		bind, token string
		header      http.Header
		status      int
	}{
		{"127.0.0.1:0", "", nil, http.StatusOK},
		{"0.0.0.0:0", "", nil, http.StatusForbidden},
		{"0.0.0.0:0", "", right, http.StatusForbidden},
		{"0.0.0.0:0", token, nil, http.StatusUnauthorized},
		{"127.0.0.1:0", token, wrong, http.StatusUnauthorized},
		{"0.0.0.0:0", token, right, http.StatusOK},
	} {
		s := startEdge(t, func(cfg *config.Config) {
			cfg.Runtime.Health.BindAddr, cfg.Runtime.Health.DebugToken = c.bind, c.token
		})
		stays := s.dial("/open-app", nil)
		for _, ask := range []struct{ method, path string }{{"POST", "/debug/disconnect?user=alice"}, {"GET", "/debug/groups"}} {
			if status, body := s.askHealth(ask.method, ask.path, c.header); status != c.status {
				t.Errorf("%s with token %q, %s: %d %s, want %d", c.bind, c.token, ask.path, status, body, c.status)
			}
		}
		if c.status != http.StatusOK {
			s.askHealth("POST", "/debug/disconnect?application=open-app", c.header)
			s.publish("open-app", "", 1)
			if r := read(t, stays); r.Data.N != 1 {
				t.Errorf("the socket got %+v", r)
			}
		}
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	}
}

func TestDisconnectIsNotForPagesThatPointANameAtTheEdge(t *testing.T) {
	s := startEdge(t, nil)
	stays := s.dial("/open-app", nil)
	r, err := http.NewRequest("POST", "http://"+s.admin+"/debug/disconnect?application=open-app", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "evil.example:9090"
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("it was answered %s", answer.Status)
	}
	s.publish("open-app", "", 1)
	if r := read(t, stays); r.Data.N != 1 {
		t.Errorf("the socket got %+v", r)
	}
}
