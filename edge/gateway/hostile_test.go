package gateway

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"canopy/edge/internal/certtest"
	"canopy/shared/config"
)

// overLimit is how often a limit was met.
func (s *stack) overLimit(name string) float64 {
	return s.metric(`canopy_edge_over_limit_total{limit="` + name + `"}`)
}

// opensFrom opens a socket from an address of loopback and says how long that took. It tries
// again when it is closed without an answer, as every client does.
func (s *stack) opensFrom(address string) time.Duration {
	s.t.Helper()
	start := time.Now()
	for time.Since(start) < patience {
		c := s.connectFrom(address, "")
		if s.tls {
			c = tls.Client(c, certtest.Client())
		}
		if _, err := io.WriteString(c, handshake); err != nil {
			continue
		}
		if answer, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil {
			if answer.StatusCode != http.StatusSwitchingProtocols {
				s.t.Fatalf("from %s: got %s, want 101", address, answer.Status)
			}
			return time.Since(start)
		}
	}
	s.t.Fatalf("from %s: no socket after %v", address, patience)
	return 0
}

// TestHostileHalfRequestsHoldBoundedMemoryAndLockNobodyOut has 1,600 of the most costly kind
// at an edge whose configuration says nothing about it.
func TestHostileHalfRequestsHoldBoundedMemoryAndLockNobodyOut(t *testing.T) {
	const addresses, each = 25, 64
	s := startEdge(t, nil)
	cfg, err := config.Read("", nil)
	if err != nil {
		t.Fatal(err)
	}
	most := cfg.Edge.Limits.HalfOpen
	text := halfRequests()["a long request line decoded"]
	before := settled(t)
	for n := range addresses {
		for range each {
			s.connectFrom(fmt.Sprintf("127.0.1.%d", n+1), text)
		}
	}
	s.await("the end of those beyond the bound", func() bool { return s.metric("canopy_edge_half_open") <= float64(most) })
	total := settled(t) - before
	t.Logf("%d half requests hold %d MiB", addresses*each, total>>20)
	if bound := int64(most) * halfRequestBytes * racing; total > bound {
		t.Errorf("%d half requests hold %d bytes, want %d at most", addresses*each, total, bound)
	}
	if took := s.opensFrom("127.0.2.1"); took > stale+slack {
		t.Errorf("a socket from another address took %v", took)
	}
	for s.metric("canopy_edge_half_open") > 0 && s.overLimit("half_open_per_address") == 0 {
		s.connectFrom("127.0.1.25", text)
	}
	if took := s.opensFrom("127.0.1.25"); took > stale+slack {
		t.Errorf("a socket from an attacker's address took %v", took)
	}
	if s.overLimit("half_open") == 0 || s.overLimit("half_open_per_address") == 0 {
		t.Error("nothing is counted")
	}
}

func TestARequestWithTooManyHeaderLinesIsAnsweredWhileItComes(t *testing.T) {
	for _, secure := range []bool{false, true} {
		s := startEdge(t, func(cfg *config.Config) {
			if secure {
				(&stack{t: t}).secure(cfg)
			}
		})
		for _, end := range []string{"\r\n", "\n"} {
			c := s.connect("GET /open-app HTTP/1.1\r\n" + strings.Repeat("a:"+end, 101)) // and no end
			answer, err := io.ReadAll(c)
			if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 431 ") || !strings.HasSuffix(string(answer), `{"error":"RequestHeaderFieldsTooLarge","message":"Too many header lines"}`) {
				t.Errorf("TLS %v: got %q, %v", secure, answer, err)
			}
		}
		if n := s.overLimit("header_lines"); n != 2 {
			t.Errorf("TLS %v: %v are counted, want 2", secure, n)
		}
		if n := s.metric(`canopy_edge_requests_total{status="431"}`); n != 2 {
			t.Errorf("TLS %v: %v requests are counted, want 2", secure, n)
		}
	}
}

func TestAConnectionCountsForTheClientThatItsProxyNames(t *testing.T) {
	s := startEdge(t, func(cfg *config.Config) {
		cfg.HTTP.ProxyProtocol, cfg.HTTP.TrustedProxies = true, []string{"127.0.0.1"}
		cfg.Edge.Limits.HalfOpenPerAddress = 5
	})
	for range 20 {
		s.behind("PROXY TCP4 192.0.2.1 127.0.0.1 1 2\r\nGET")
	}
	s.await("the end of those beyond the limit", func() bool { return s.overLimit("half_open_per_address") == 15 })
	for range 20 {
		s.behind("PROXY UNKNOWN\r\nGET") // the proxy's own
	}
	if status := s.handshakeOn(s.behind("PROXY TCP4 192.0.2.2 127.0.0.1 1 2\r\n")); status != 101 {
		t.Errorf("another client got %d, want 101", status)
	}
	if n := s.overLimit("half_open_per_address"); n != 15 {
		t.Errorf("%v are counted, want 15", n)
	}
}

func TestConnectionsPerSecondCountBeforeTLS(t *testing.T) {
	const perSecond = 5
	s := startEdge(t, func(cfg *config.Config) {
		(&stack{t: t}).secure(cfg)
		cfg.Edge.Limits.ConnectionsPerSecond = perSecond
	})
	const many = 50
	start := time.Now()
	for range many {
		s.connectFrom("127.0.0.1", "") // which never begins
	}
	let := 2*perSecond*(1+int(time.Since(start)/time.Second)) + 1
	s.await("the end of most", func() bool { return s.overLimit("connections_per_second") >= float64(many-let) })
	if n := s.overLimit("connections_per_second"); n == many {
		t.Errorf("all %d are closed", many)
	}
}
