package gateway

import (
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"canopy/shared/config"
)

// Rows of the contract about who is refused, and about the end of a socket, that need more
// than one request.

func TestARefusedClientCannotTellAPrivateApplicationFromOneThatDoesNotExist(t *testing.T) {
	o := startOIDC(t)
	s := startEdge(t, trust(o))
	bob := http.Header{"Authorization": {"Bearer " + o.sign(o.claims("bob"))}}
	write := strings.Replace(applications, "alice: [read]", "alice: [read]\n      bob: [write]", 1)
	for name, c := range map[string]struct {
		header http.Header
		file   string
	}{
		"anonymous":           {nil, applications},
		"no member":           {bob, applications},
		"a member who writes": {bob, write},
	} {
		if err := os.WriteFile(s.file, []byte(c.file), 0o600); err != nil {
			t.Fatal(err)
		}
		private, body := s.ask(http.MethodGet, "/secret-app", c.header)
		missing, other := s.ask(http.MethodGet, "/nobody-app", c.header)
		if private.StatusCode != 404 || missing.StatusCode != 404 || strings.Replace(body, "secret", "nobody", 1) != other {
			t.Errorf("%s: got %s %s and %s %s", name, private.Status, body, missing.Status, other)
		}
		for _, h := range []http.Header{private.Header, missing.Header} {
			h.Del("Date")
		}
		if a, b := private.Header, missing.Header; len(a) != len(b) || a.Get("Content-Length") != b.Get("Content-Length") {
			t.Errorf("%s: headers differ: %v and %v", name, a, b)
		}
	}
}

func TestARevokedKeyIsForbiddenAndWhyIsNotTold(t *testing.T) {
	s := startEdge(t, nil)
	key := basicAuth("alice", "secret")
	if answer, body := s.ask(http.MethodGet, "/secret-app", key); answer.StatusCode != 101 {
		t.Fatalf("before: %s %s", answer.Status, body)
	}
	s.edit("2bb80d", "2bb80e")
	s.await("its refusal", func() bool {
		answer, body := s.ask(http.MethodGet, "/secret-app", key)
		if answer.StatusCode == 403 && body != justForbidden {
			t.Errorf("a revoked key is told %s", body)
		}
		return answer.StatusCode == 403
	})
}

func TestAServiceThatIsDownIsAnsweredWith500ThatSaysWhatAndNotWhy(t *testing.T) {
	d := startCloud(t)
	s := startEdge(t, d.use(time.Minute, 0))
	d.set(func(d *cloud) { d.down = true })
	for _, c := range []struct {
		name, target string
		body         string
	}{
		{"authentication", "/secret-app?username=alice&api_key=" + drogueKey, `{"error":"Internal","message":"Authentication is not available"}`},
		{"authorization", "/open-app", `{"error":"Internal","message":"Authorization is not available"}`},
	} {
		if status, body := s.open(c.target); status != 500 || body != c.body {
			t.Errorf("%s: got %d %s, want 500 %s", c.name, status, body, c.body)
		}
	}
}

func TestASocketWhosePeerDoesNotAnswerTheCloseFrameIsCutAfterFiveSeconds(t *testing.T) {
	s := startEdge(t, nil)
	c, in := s.rawDial("/open-app", "")
	start := time.Now()
	if status, body := s.askHealth(http.MethodPost, "/debug/disconnect?application=open-app", nil); status != 200 {
		t.Fatalf("disconnect: %d %s", status, body)
	}
	opcode, payload := readFrame(t, in)
	if opcode != 0x8 || binary.BigEndian.Uint16(payload) != 1008 || string(payload[2:]) != "Disconnected by the operator" {
		t.Fatalf("got frame %x %q, want the close frame", opcode, payload)
	}
	if _, err := io.ReadAll(in); err != nil {
		t.Errorf("the connection ended with %v", err)
	}
	// The seconds are whole ones of a coarse clock.
	if took := time.Since(start); took < 3*time.Second || took > 6*time.Second+slack {
		t.Errorf("cut after %v, want 5 s", took)
	}
	_ = c.Close()
}

func TestExtensionsThatAreOfferedAreNotPromised(t *testing.T) {
	s := startEdge(t, nil)
	answer, _ := s.ask(http.MethodGet, "/open-app", http.Header{"Sec-Websocket-Extensions": {"permessage-deflate; client_max_window_bits"}})
	if got := answer.Header.Get("Sec-WebSocket-Extensions"); answer.StatusCode != 101 || got != "" {
		t.Errorf("got %s with %q, want 101 without", answer.Status, got)
	}
}

func TestAnEdgeStartsWithExactlyOneSourceOfAccess(t *testing.T) {
	d := startCloud(t)
	for name, change := range map[string]func(*config.Config){
		"neither": func(*config.Config) {},
		"both": func(c *config.Config) {
			d.use(time.Minute, time.Minute)(c)
			c.Edge.ApplicationsFile = "applications.yaml"
		},
	} {
		cfg, err := config.Read("", nil)
		if err != nil {
			t.Fatal(err)
		}
		cfg.NATS.URL, cfg.HTTP.BindAddr = "nats://127.0.0.1:4222", "127.0.0.1:0"
		change(&cfg)
		var wrong config.Problems
		if err := cfg.ValidateEdge(); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "EDGE__APPLICATIONS_FILE") {
			t.Errorf("%s: got %v, want a problem of EDGE__APPLICATIONS_FILE", name, err)
		}
	}
}
