package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"canopy/edge/internal/certtest"
	"canopy/shared/config"
)

const handshake = "GET /open-app HTTP/1.1\r\nHost: canopy\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"

// connect opens a TCP connection and writes text to it.
func (s *stack) connect(text string) net.Conn {
	s.t.Helper()
	c := s.dialTCP()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil {
		s.t.Fatal(err)
	}
	return c
}

func TestClientsThatResetDuringTheHandshakeAreNotCounted(t *testing.T) {
	s := startEdge(t, nil)
	stays := s.dial("/open-app", nil)
	for range 200 {
		c := s.connect(handshake)
		_ = tcpOf(c).SetLinger(0)
		_ = c.Close()
	}
	for deadline := time.Now().Add(patience); s.metric(`drogue_connections{protocol="ws",type="integration"}`) != 1; {
		if time.Now().After(deadline) {
			t.Fatalf("%v sockets are counted, want 1", s.metric(`drogue_connections{protocol="ws",type="integration"}`))
		}
	}
	// The list of all sockets is made from that number.
	if err := os.WriteFile(s.file, []byte(strings.Replace(applications, "open-app", "no-app", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, _, err := stays.Read(ctx); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("the socket ended with %v, want 1008", err)
	}
}

func TestHandshakesThatComeAtOnceDoNotExceedTheLimit(t *testing.T) {
	const limit = 5
	s := startEdge(t, func(cfg *config.Config) { cfg.Edge.Limits.Connections = limit })
	var opened, refused atomic.Int64
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: certtest.Client()}}
			c, answer, err := websocket.Dial(ctx, s.url()+"/open-app", &websocket.DialOptions{HTTPClient: client})
			if err == nil {
				opened.Add(1)
				t.Cleanup(func() { _ = c.CloseNow() })
			} else if answer != nil && answer.StatusCode == http.StatusServiceUnavailable {
				refused.Add(1)
			}
		})
	}
	all.Wait()
	if opened.Load() != limit || refused.Load() != 40-limit {
		t.Errorf("%d sockets opened and %d refused, want %d and %d", opened.Load(), refused.Load(), limit, 40-limit)
	}
}

func TestARequestWhoseBodyNeverComesIsAnsweredAndEnds(t *testing.T) {
	s := startEdge(t, nil)
	c := s.connect("POST /open-app HTTP/1.1\r\nHost: canopy\r\nContent-Length: 10\r\n\r\n")
	answer, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
		t.Fatalf("got %q, %v; want 400 and the end of the connection", answer, err)
	}
}

func TestHalfOpenConnectionsDoNotKeepSocketsFromTheirCloseFrame(t *testing.T) {
	s := startEdge(t, nil)
	s.connect("GET /open-app HTTP/1.1\r\n") // and no more
	s.connect("")
	var sockets []*websocket.Conn
	for range 20 {
		sockets = append(sockets, s.dial("/open-app", nil))
	}
	ended := make(chan error, 1)
	start := time.Now()
	go func() { ended <- s.stop() }()
	for i, c := range sockets {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, _, err := c.Read(ctx)
		cancel()
		var closed websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != websocket.StatusGoingAway {
			t.Errorf("socket %d ended with %v, want 1001", i, err)
		}
	}
	if err := <-ended; err != nil {
		t.Errorf("the edge ended with %v", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("the drain took %s", took)
	}
}

func TestAClientThatLeavesWhileItsPlaceIsMadeIsNoFaultOfTheEdge(t *testing.T) {
	s := startEdge(t, nil)
	s.nats.Down() // so that no place can be made
	c := s.connect(handshake)
	_ = c.Close()
	s.await("its count", func() bool { return s.metricOr0(`canopy_edge_requests_total{status="499"}`) == 1 })
	if n := s.metricOr0(`canopy_edge_requests_total{status="503"}`); n != 0 {
		t.Errorf("%v requests are counted as 503, want 0", n)
	}
	s.nats.Up()
	s.waitReady()
}
