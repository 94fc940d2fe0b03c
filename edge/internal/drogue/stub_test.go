package drogue

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"canopy/shared/config"
)

const (
	aliceKey = "drg_012345_01234567890123456789012345678920BetF"

	clientID, clientSecret = "canopy edge", "s3cr3t/of+the client"
)

// stub plays Drogue's two services and the issuer of their tokens. It shares no code with
// what it tests: it knows requests as bytes, and answers only those that it knows.
type stub struct {
	t      *testing.T
	server *httptest.Server

	mu      sync.Mutex
	answers map[string]string // by method, path and body, after one space each
	asked   map[string]int
	token   string        // that is good now
	life    int           // seconds that the issuer states for a token, 0 for nothing
	tokens  int           // given
	fail    int           // status of the next answers of services, 0 if they work
	hang    chan struct{} // services answer nothing until it is closed, if it is not nil,
	hangOn  string        // to questions that contain this
	poison  string        // questions that contain this break the connection, unless it is empty
	issuer  int           // status of the token endpoint, 0 if it works
}

func newStub(t *testing.T) *stub {
	s := &stub{t: t, asked: make(map[string]int), token: "token-0", life: 300, answers: map[string]string{
		`POST /api/v1/user/authz {"application":"-","permission":"Read","user_id":null,"roles":[]}`: `{"outcome":"deny"}`,
		`GET /api/registry/v1alpha1/apps/- `: ``,
	}}
	s.server = httptest.NewServer(s)
	t.Cleanup(s.server.Close)
	return s
}

func (s *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Errorf("read a request: %v", err)
	}
	s.mu.Lock()
	hang, poison := s.hang, s.poison
	if !strings.Contains(string(body), s.hangOn) {
		hang = nil
	}
	s.mu.Unlock()
	switch {
	case r.URL.Path == "/realm/.well-known/openid-configuration":
		_, _ = fmt.Fprintf(w, `{"issuer":"%[1]s/realm","token_endpoint":"%[1]s/realm/token"}`, s.server.URL)
	case r.URL.Path == "/realm/token":
		s.giveToken(w, r, string(body))
	case poison != "" && strings.Contains(string(body), poison):
		s.set(func(s *stub) { s.asked[r.Method+" "+r.RequestURI+" "+string(body)]++ })
		panic(http.ErrAbortHandler)
	case hang != nil:
		s.set(func(s *stub) { s.asked[r.Method+" "+r.RequestURI+" "+string(body)]++ })
		select {
		case <-hang:
			s.mu.Lock()
			released := s.hang == nil
			s.mu.Unlock()
			if released {
				s.answer(w, r, string(body))
			}
		case <-r.Context().Done():
		}
	default:
		s.answer(w, r, string(body))
	}
}

// giveToken is RFC 6749, section 4.4, with 2.3.1 for who the client is.
func (s *stub) giveToken(w http.ResponseWriter, r *http.Request, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, secret, ok := r.BasicAuth()
	if r.Method != "POST" || body != "grant_type=client_credentials" || !ok ||
		id != url.QueryEscape(clientID) || secret != url.QueryEscape(clientSecret) ||
		r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		s.t.Errorf("a client asks for a token with %s %q", r.Method, body)
	}
	if s.issuer != 0 {
		w.WriteHeader(s.issuer)
		_, _ = io.WriteString(w, `{"error":"invalid_client","error_description":"`+clientSecret+`"}`)
		return
	}
	s.tokens++
	s.token = fmt.Sprintf("token-%d", s.tokens)
	w.Header().Set("Content-Type", "application/json")
	if s.life == 0 {
		_, _ = fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer"}`, s.token)
	} else {
		_, _ = fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":%d}`, s.token, s.life)
	}
}

func (s *stub) answer(w http.ResponseWriter, r *http.Request, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	question := r.Method + " " + r.RequestURI + " " + body
	s.asked[question]++
	if s.fail != 0 {
		w.WriteHeader(s.fail)
		_, _ = io.WriteString(w, "it failed for "+body)
		return
	}
	if got := r.Header.Get("Authorization"); got != "Bearer "+s.token {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	answer, known := s.answers[question]
	wantType := ""
	if r.Method == "POST" {
		wantType = "application/json"
	}
	if !known || r.Header.Get("Content-Type") != wantType || r.Header.Get("Accept") != "application/json" {
		s.t.Errorf("a question that no client of Drogue's asks: %s %v", question, r.Header)
	}
	if answer == "" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, answer)
}

// set changes the stub under its lock.
func (s *stub) set(change func(*stub)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// count is how often questions came that begin so.
func (s *stub) count(prefix string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for question, times := range s.asked {
		if strings.HasPrefix(question, prefix) {
			n += times
		}
	}
	return n
}

// key has the stub answer who a key belongs to.
func (s *stub) key(user, key, outcome string) {
	s.set(func(s *stub) {
		s.answers[fmt.Sprintf(`POST /api/user/v1alpha1/authn {"user_id":%q,"access_token":%q}`, user, key)] = `{"outcome":` + outcome + `}`
	})
}

// read has the stub answer whether somebody may read; user and roles are JSON.
func (s *stub) read(application, user, roles, outcome string) {
	s.set(func(s *stub) {
		s.answers[fmt.Sprintf(`POST /api/v1/user/authz {"application":%q,"permission":"Read","user_id":%s,"roles":%s}`, application, user, roles)] = `{"outcome":"` + outcome + `"}`
	})
}

func (s *stub) config() config.Config {
	service := config.Service{URL: s.server.URL, ClientID: clientID, ClientSecret: clientSecret, IssuerURL: s.server.URL + "/realm"}
	return config.Config{UserAuth: service, Edge: config.Edge{AccessCache: 30 * time.Second, AccessStale: 5 * time.Minute}}
}

// source is one that asks the stub, and runs until the test ends.
func (s *stub) source(change func(*config.Config)) (*Source, *observer.ObservedLogs, *prometheus.Registry) {
	s.t.Helper()
	cfg := s.config()
	if change != nil {
		change(&cfg)
	}
	core, logs := observer.New(zap.DebugLevel)
	reg := prometheus.NewRegistry()
	source, err := New(cfg, zap.New(core), reg)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx) }()
	s.t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			s.t.Errorf("the source ended with %v", err)
		}
	})
	return source, logs, reg
}

// waitFor waits for a condition.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("no %s after 20 s", what)
		}
	}
}
