package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"canopy/edge/internal/certtest"
	"canopy/shared/config"
	"canopy/shared/natstest"
	"canopy/shared/rawtls"
)

// witnesses are sockets of another application that read, of every kind, and how late their
// events are.
type witnesses struct {
	s       *stack
	sockets int
	from    time.Time

	mu   sync.Mutex
	late []time.Duration
	lost []error

	reading sync.WaitGroup
	sent    int
}

// watch opens the sockets.
func (s *stack) watch() *witnesses {
	w := &witnesses{s: s, from: time.Now()}
	s.t.Cleanup(w.reading.Wait)
	for _, path := range []string{"/other-app", "/other-app?group_id=workers", "/other-app?since=" + w.from.UTC().Format(time.RFC3339)} {
		c := s.dial(path, nil)
		w.sockets++
		w.reading.Go(func() {
			for {
				_, payload, err := c.Read(context.Background())
				if err != nil {
					w.mu.Lock()
					w.lost = append(w.lost, fmt.Errorf("%s: %w", path, err))
					w.mu.Unlock()
					return
				}
				late := time.Since(w.from) - time.Duration(parse(s.t, payload).Data.N)*time.Microsecond
				w.mu.Lock()
				w.late = append(w.late, late)
				w.mu.Unlock()
			}
		})
		s.t.Cleanup(func() { _ = c.CloseNow() })
	}
	return w
}

// during publishes an event of 16 KiB every 20 ms until done is closed, and a second longer.
func (w *witnesses) during(done <-chan struct{}) {
	pad := strings.Repeat("x", 16<<10)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for more := 50; more > 0; <-ticker.C {
		select {
		case <-done:
			more--
		default:
		}
		w.sent++
		body := fmt.Sprintf(`{"specversion":"1.0","id":"w%d","type":"t","source":"s","data":{"n":%d,"pad":%q}}`, w.sent, time.Since(w.from).Microseconds(), pad)
		m := natstest.Message(shards, "other-app", "", body)
		w.s.publishMsg(m.Subject, func(ctx context.Context) error { _, err := w.s.js.PublishMsg(ctx, m); return err })
	}
}

// judge waits for every event and says how late they were.
func (w *witnesses) judge(most time.Duration) {
	w.s.t.Helper()
	got := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.late)
	}
	for deadline := time.Now().Add(patience); got() < w.sent*w.sockets; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.s.t.Fatalf("%d of %d events came; sockets ended: %v", len(w.late), w.sent*w.sockets, w.lost)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, err := range w.lost {
		w.s.t.Errorf("a socket that reads ended: %v", err)
	}
	slices.Sort(w.late)
	p99, max := w.late[len(w.late)*99/100], w.late[len(w.late)-1]
	w.s.t.Logf("%d events: p99 %s, max %s", len(w.late), p99, max)
	if p99 > most {
		w.s.t.Errorf("events were late by %s (p99), want %s at most", p99, most)
	}
}

// hostile is what one client does that never reads, until done is closed or its socket is.
type hostile func(s *stack, done <-chan struct{})

// besiege runs n hostile clients for some seconds, and judges how the others fare.
func besiege(t *testing.T, n int, client hostile, change func(*config.Config)) *stack {
	s := startEdge(t, change)
	w := s.watch()
	done, over := make(chan struct{}), make(chan struct{})
	var clients sync.WaitGroup
	for range n {
		clients.Go(func() { client(s, done) })
	}
	most := 0.0
	go func() {
		defer close(over)
		for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			most = max(most, s.metric("canopy_edge_socket_bytes"))
		}
		close(done)
	}()
	w.during(done)
	<-over
	w.judge(time.Second)
	clients.Wait()
	t.Logf("held at most %.0f KiB; %v cut for memory, %v for answers, %v for too many messages, %v pauses", most/1024,
		s.metricOr0(`canopy_edge_unread_total{cause="memory"}`), s.metricOr0(`canopy_edge_unread_total{cause="replies"}`),
		s.metricOr0(`canopy_edge_over_limit_total{limit="messages_per_second"}`), s.metricOr0("canopy_edge_socket_pauses_total"))
	return s
}

// again calls send every 20 ms until that fails, or done is closed.
func again(done <-chan struct{}, send func() error) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for send() == nil {
		select {
		case <-done:
			return
		case <-ticker.C:
		}
	}
}

// rawSocket opens a socket from which nothing is read, and whose kernel takes little.
func (s *stack) rawSocket(path string) net.Conn {
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10) })
	}}
	c, err := dialer.Dial("tcp", s.http)
	if err != nil {
		s.t.Error(err)
		return nil
	}
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	if s.tls {
		c = tls.Client(c, certtest.Client())
	}
	request := strings.Replace(handshake, "/open-app", path, 1)
	if _, err := io.WriteString(c, request); err != nil {
		return c
	}
	b := make([]byte, 1)
	for end := 0; end < 4; { // up to the end of the 101
		if _, err := c.Read(b); err != nil {
			return c
		}
		if b[0] == "\r\n\r\n"[end] {
			end++
		} else {
			end = 0
		}
	}
	return c
}

func TestKeyUpdatesThatNobodyReadsDelayNobodyElse(t *testing.T) {
	client := func(s *stack, done <-chan struct{}) {
		c, err := rawtls.Dial(s.http, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = c.Close() }()
		if status, err := c.Upgrade("/open-app", nil); err != nil || status != http.StatusSwitchingProtocols {
			t.Errorf("status %d, %v", status, err)
		}
		_ = c.TCP.SetWriteDeadline(time.Now().Add(2 * patience))
		again(done, func() error { return c.KeyUpdates(100) })
	}
	s := besiege(t, 1, client, func(cfg *config.Config) {
		(&stack{t: t}).secure(cfg)
		cfg.Edge.Buffers.SocketBytes = 64 << 10
	})
	if n := s.metric(`canopy_edge_over_limit_total{limit="messages_per_second"}`); n != 1 {
		t.Errorf("%v sockets sent too many messages, want 1", n)
	}
}

func TestPingsThatNobodyReadsTheAnswersOfDelayNobodyElse(t *testing.T) {
	for _, over := range []string{"TCP", "TLS"} {
		t.Run(over, func(t *testing.T) {
			flood := []byte(strings.Repeat(masked(0x89, strings.Repeat("p", 125)), 20))
			client := func(s *stack, done <-chan struct{}) {
				c := s.rawSocket("/open-app")
				defer func() { _ = c.Close() }()
				again(done, func() error { _, err := c.Write(flood); return err })
			}
			s := besiege(t, 16, client, func(cfg *config.Config) {
				cfg.Edge.Limits.MessagesPerSecond = 0 // so that the kernel's buffers are full soon
				cfg.Edge.Buffers.SocketBytes = 32 << 10
				if over == "TLS" {
					(&stack{t: t}).secure(cfg)
				}
			})
			if n := s.metric(`canopy_edge_unread_total{cause="memory"}`); n == 0 {
				t.Error("no socket was cut")
			}
		})
	}
}

// noise publishes events of a size to open-app until done is closed.
func (s *stack) noise(size int, done <-chan struct{}) {
	m := natstest.Message(shards, "open-app", "", fmt.Sprintf(`{"specversion":"1.0","id":"noise","type":"t","source":"s","data":%q}`, strings.Repeat("x", size)))
	for n := 0; ; n++ {
		select {
		case <-done:
			return
		case <-time.After(20 * time.Millisecond):
		}
		s.publishMsg(m.Subject, func(ctx context.Context) error {
			_, err := s.js.PublishMsg(ctx, m, jetstream.WithMsgID("noise "+strconv.Itoa(n)))
			return err
		})
	}
}

func TestSocketsThatReadNoEventsDelayNobodyElse(t *testing.T) {
	for name, path := range map[string]string{
		"feed":  "/open-app",
		"group": "/open-app?group_id=hoarders",
	} {
		t.Run(name, func(t *testing.T) {
			var loud sync.Once
			client := func(s *stack, done <-chan struct{}) {
				c := s.rawSocket(path)
				loud.Do(func() { s.noise(256<<10, done) })
				<-done
				_ = c.Close()
			}
			s := besiege(t, 60, client, func(cfg *config.Config) { cfg.Edge.Buffers.SocketBytes = 1 << 20 })
			if n := s.metric(`canopy_edge_unread_total{cause="memory"}`); n == 0 {
				t.Error("no socket was cut")
			}
		})
	}
}

func TestClosingSocketsThatDoNotReadDelayNobodyElse(t *testing.T) {
	var loud sync.Once
	client := func(s *stack, done <-chan struct{}) {
		loud.Do(func() { go s.noise(256<<10, done) })
		for { // each holds events, and is closed for what it sends
			c := s.rawSocket("/open-app")
			select {
			case <-done:
				_ = c.Close()
				return
			case <-time.After(300 * time.Millisecond):
				_, _ = c.Write([]byte("\x81\x00"))
			}
		}
	}
	besiege(t, 40, client, func(cfg *config.Config) { cfg.Edge.Buffers.SocketBytes = 1 << 20 })
}
