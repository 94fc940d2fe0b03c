package gateway

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"canopy/shared/config"
)

// connectFrom opens a TCP connection from another address of loopback.
func (s *stack) connectFrom(address, text string) net.Conn {
	s.t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: patience}
	c, err := dialer.Dial("tcp", s.http)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil {
		s.t.Fatal(err)
	}
	return c
}

func TestSilentConnectionsOfOneAddressLeaveRoomForOthers(t *testing.T) {
	const connections = 20
	for name, c := range map[string]struct {
		proxies []string
		closes  bool
	}{
		"a client":                  {nil, true},
		"a client beside a proxy":   {[]string{"127.0.0.9"}, true},
		"a proxy with many clients": {[]string{"127.0.0.7"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := startEdge(t, func(cfg *config.Config) {
				cfg.HTTP.DisableTLS, cfg.HTTP.CertBundleFile, cfg.HTTP.KeyFile = true, "", ""
				cfg.Edge.Limits.Connections = connections
				cfg.HTTP.TrustedProxies = c.proxies
			})
			const most, many = 64, 64 + 5
			for range many {
				s.connectFrom("127.0.0.7", "")
			}
			over := func() float64 { return s.metric(`canopy_edge_over_limit_total{limit="half_open_per_address"}`) }
			if c.closes {
				s.await("the end of those beyond the limit", func() bool { return over() == many-most })
			}
			other := s.connectFrom("127.0.0.8", handshake)
			answer := make([]byte, 12)
			if _, err := io.ReadFull(other, answer); err != nil || string(answer) != "HTTP/1.1 101" {
				t.Errorf("another address got %q, %v; want 101", answer, err)
			}
			if n := over(); !c.closes && n != 0 {
				t.Errorf("%v connections of the proxy were closed", n)
			}
		})
	}
}

func TestConnectionsThatEndMakeRoomForOthersOfTheirAddress(t *testing.T) {
	s := startEdge(t, func(cfg *config.Config) { cfg.Edge.Limits.HalfOpenPerAddress = 64 })
	for range 3 * 64 {
		if answer, _ := s.ask(http.MethodGet, "/nothing", nil); answer.StatusCode != http.StatusNotFound {
			t.Fatalf("got %s, want 404", answer.Status)
		}
	}
	if n := s.metric(`canopy_edge_over_limit_total{limit="half_open_per_address"}`); n != 0 {
		t.Errorf("%v connections were refused", n)
	}
}

func TestARefusalEndsItsConnection(t *testing.T) {
	s := startEdge(t, func(cfg *config.Config) { cfg.HTTP.CORS.Mode = "permissive" })
	for _, request := range []string{
		"GET /nothing HTTP/1.1\r\nHost: canopy\r\n\r\n",
		"GET /open-app HTTP/1.1\r\nHost: canopy\r\nConnection: keep-alive\r\n\r\n",
		"OPTIONS /open-app HTTP/1.1\r\nHost: canopy\r\nOrigin: https://a\r\nAccess-Control-Request-Method: GET\r\n\r\n",
	} {
		start := time.Now()
		answer, err := io.ReadAll(s.connect(request)) // up to the end of the connection
		if err != nil || !strings.Contains(string(answer), "Connection: close\r\n") {
			t.Errorf("%.40q got %q, %v; want an end that is announced", request, answer, err)
		}
		if took := time.Since(start); took > idleTimeout/2 {
			t.Errorf("%.40q: the connection was open for %s", request, took)
		}
	}
}
