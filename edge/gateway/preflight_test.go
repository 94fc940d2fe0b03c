package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"canopy/edge/internal/session"
	"canopy/edge/internal/ws"
	"canopy/shared/config"
)

// What is no socket, and never becomes one.

var preflight = http.Header{"Origin": {"https://a"}, "Access-Control-Request-Method": {"GET"}}

func TestPreflightsAreLimitedAndCountedAsOtherRequestsAre(t *testing.T) {
	s := startEdge(t, func(cfg *config.Config) {
		cfg.HTTP.CORS.Mode = "permissive"
		cfg.Edge.Limits.ConnectionsPerAddress = 1
	})
	for range 3 { // each gives its place back
		s.await("an answer to a preflight", func() bool {
			answer, _ := s.ask(http.MethodOptions, "/open-app", preflight)
			return answer.StatusCode == http.StatusNoContent
		})
	}
	if n := s.metric(`canopy_edge_requests_total{status="204"}`); n != 3 {
		t.Errorf("%v preflights are counted, want 3", n)
	}
	s.dial("/open-app", nil)
	over := s.metric(`canopy_edge_over_limit_total{limit="connections_per_address"}`)
	answer, body := s.ask(http.MethodOptions, "/open-app", preflight)
	if answer.StatusCode != http.StatusTooManyRequests || answer.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("a preflight of an address that has its sockets got %s %q %s", answer.Status, answer.Header, body)
	}
	if n := s.metric(`canopy_edge_over_limit_total{limit="connections_per_address"}`); n != over+1 {
		t.Errorf("%v refusals are counted, want %v", n, over+1)
	}
}

func TestAFullEdgeAnswersPreflightsWith503(t *testing.T) {
	s := startEdge(t, func(cfg *config.Config) {
		cfg.HTTP.CORS.Mode = "permissive"
		cfg.Edge.Limits.Connections = 1
	})
	s.dial("/open-app", nil)
	if answer, body := s.ask(http.MethodOptions, "/open-app", preflight); answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("got %s %s, want 503", answer.Status, body)
	}
}

func TestAConnectionThatBecomesNoSocketInTimeIsClosedWhateverItWaitsFor(t *testing.T) {
	reg := prometheus.NewRegistry()
	e := &edge{log: zap.NewNop(), limits: newLimits(config.Limits{}, reg)}
	e.door = newDoor(config.Limits{}, e.limits)
	e.sessions = session.NewRegistry(ws.NewEngine(ws.Config{}), nil, nil, config.Ping{}, e.log, reg)
	a := &admission{
		edge: e, limit: 10, outcomes: newOutcomes(reg),
		overall: 200 * time.Millisecond,
	}
	ended := make(chan error, 1)
	server, err := newServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done() // an answer that never comes
		ended <- r.Context().Err()
	}), 32<<10, e.log)
	if err != nil {
		t.Fatal(err)
	}
	server.ConnState = a.connState
	listener, err := listenAnywhere()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = server.Serve(&front{Listener: listener, lines: 100, limits: e.limits, answered: func(int) {}})
	}()
	t.Cleanup(func() { _ = server.Close() })
	for name, request := range map[string]string{
		"no byte": "", "a header that never ends": "GET /open-app HTTP/1.1\r\n", "an answer that never comes": handshake,
	} {
		start := time.Now()
		c, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(start.Add(patience))
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); errors.As(err, new(net.Error)) && err.(net.Error).Timeout() {
			t.Errorf("%s: the connection is still open after %v", name, patience)
		}
		if took := time.Since(start); took < a.overall || took >= readHeaderTimeout {
			t.Errorf("%s: closed after %v, want %v", name, took, a.overall)
		}
		_ = c.Close()
	}
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the handler was told %v", err)
		}
	case <-time.After(patience):
		t.Error("the handler was not told")
	}
	if n := testutil.ToFloat64(a.outcomes.WithLabelValues("408")); n != 3 {
		t.Errorf("%v are counted, want 3", n)
	}
	(&stack{t: t}).await("the end of all connections", func() bool { return a.door.count() == 0 })
}
