package gateway

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"canopy/edge/internal/certtest"
	"canopy/shared/config"
)

// secureEdge ends TLS, with so many handshakes a second.
func secureEdge(t *testing.T, perSecond int) *stack {
	t.Helper()
	return startEdge(t, func(cfg *config.Config) {
		(&stack{t: t}).secure(cfg)
		cfg.Edge.Limits.HandshakesPerSecond = perSecond
	})
}

func TestHandshakesBeyondTheirRateWaitAndAllSucceed(t *testing.T) {
	const perSecond, clients = 20, 40
	s := secureEdge(t, perSecond)
	start := time.Now()
	var all errgroup.Group
	for range clients {
		all.Go(func() error {
			c, err := tls.Dial("tcp", s.http, certtest.Client())
			if err == nil {
				t.Cleanup(func() { _ = c.Close() })
			}
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
	if took, want := time.Since(start), (clients-2)*time.Second/perSecond; took < want {
		t.Errorf("%d handshakes took %v, want %v", clients, took, want)
	}
}

func TestClientsThatStopInTheirHandshakeHoldUpNobody(t *testing.T) {
	s := secureEdge(t, 0)
	hello := clientHello(t)
	for range 60 {
		s.connectFrom("127.0.0.7", hello) // and no more
	}
	start := time.Now()
	for range 20 {
		c := s.dialTCP()
		if err := c.(*tls.Conn).HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("20 handshakes beside 60 that stop took %v", took)
	}
}

func TestAConnectionThatIsClosedDoesNotWaitForItsTurn(t *testing.T) {
	counts := newLimits(config.Limits{}, prometheus.NewRegistry())
	h := newHandshakes(1000, newDoor(config.Limits{}, counts), counts.handshakes)
	for range cap(h.turns) {
		h.turns <- struct{}{}
	}
	ours, theirs := net.Pipe()
	defer func() { _ = theirs.Close() }()
	c := &frontConn{Conn: ours, gone: make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		_, err := h.turn(context.WithValue(context.Background(), connKey{}, c))
		ended <- err
	}()
	_ = c.Close()
	if err := <-ended; err == nil {
		t.Error("it had a turn")
	}
	if n := len(h.turns); n != cap(h.turns) {
		t.Errorf("%d turns are taken, want %d", n, cap(h.turns))
	}
}

func TestASecondTurnOfAHandshakeCountsForNoRate(t *testing.T) {
	counts := newLimits(config.Limits{}, prometheus.NewRegistry())
	h := newHandshakes(1, newDoor(config.Limits{}, counts), counts.handshakes)
	h.rate = rate.NewLimiter(rate.Every(time.Hour), 1)
	c := &frontConn{gone: make(chan struct{})}
	ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), connKey{}, c), patience)
	defer cancel()
	for n := range 2 {
		done, err := h.turn(ctx)
		if err != nil {
			t.Fatalf("turn %d: %v", n+1, err)
		}
		done()
	}
	if _, err := h.turn(context.WithValue(ctx, connKey{}, &frontConn{gone: make(chan struct{})})); err == nil {
		t.Error("another handshake does not wait")
	}
	if n := len(h.turns); n != 0 {
		t.Errorf("%d turns are taken", n)
	}
}

func TestWhatIsSentBeforeASocketIsOpenIsBoundedOnTheWire(t *testing.T) {
	s := secureEdge(t, 0)
	c := s.dialTCP()
	_ = c.SetDeadline(time.Now().Add(patience))
	sent, err := 0, error(nil)
	for _, b := range []byte("GET /open-app HTTP/1.1\r\na:" + strings.Repeat("x", 30<<10)) {
		if _, err = c.Write([]byte{b}); err != nil { // a record each
			break
		}
		sent++
	}
	if err == nil {
		_, err = io.ReadAll(c)
	}
	if timeout, ok := err.(net.Error); err == nil || ok && timeout.Timeout() {
		t.Errorf("%d records of one byte: %v, want the end of the connection", sent, err)
	}
	// A client that writes each of its lines by itself is none of those.
	c = s.dialTCP()
	for line := range strings.Lines(handshake) {
		if _, err := io.WriteString(c, line); err != nil {
			t.Fatal(err)
		}
	}
	answer := make([]byte, 12)
	if _, err := io.ReadFull(c, answer); err != nil || string(answer) != "HTTP/1.1 101" {
		t.Errorf("got %q, %v; want 101", answer, err)
	}
}
