package natsconn

import (
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"canopy/shared/config"
)

const patience = 20 * time.Second

// quick makes tests wait less for reconnects than daemons do.
var quick = []nats.Option{nats.ReconnectWait(10 * time.Millisecond), nats.ReconnectJitter(0, 0)}

// startServer runs a real server; port -1 means a free one. It ends with the test.
func startServer(t *testing.T, opts natsserver.Options) *natsserver.Server {
	t.Helper()
	opts.Host, opts.NoLog, opts.NoSigs = "127.0.0.1", true, true
	s, err := natsserver.NewServer(&opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { stopServer(s) })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	return s
}

func stopServer(s *natsserver.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

func portOf(t *testing.T, s *natsserver.Server) int {
	t.Helper()
	_, port, found := strings.Cut(strings.TrimPrefix(s.ClientURL(), "nats://"), ":")
	n := 0
	for _, digit := range port {
		n = 10*n + int(digit-'0')
	}
	if !found || n == 0 {
		t.Fatalf("no port in %s", s.ClientURL())
	}
	return n
}

// calls records what Handlers were told; each channel holds more than a test causes.
type calls struct {
	connected, reconnected, disconnected, lameDuck, closed chan struct{}
	async                                                  chan error
}

func record() (*calls, Handlers) {
	const room = 1000
	c := &calls{
		connected: make(chan struct{}, room), reconnected: make(chan struct{}, room), disconnected: make(chan struct{}, room),
		lameDuck: make(chan struct{}, room), closed: make(chan struct{}, room), async: make(chan error, room),
	}
	return c, Handlers{
		Connected:    func(*nats.Conn) { c.connected <- struct{}{} },
		Reconnected:  func(*nats.Conn) { c.reconnected <- struct{}{} },
		Disconnected: func(*nats.Conn, error) { c.disconnected <- struct{}{} },
		LameDuck:     func(*nats.Conn) { c.lameDuck <- struct{}{} },
		Closed:       func(*nats.Conn) { c.closed <- struct{}{} },
		AsyncError:   func(_ *nats.Conn, _ *nats.Subscription, err error) { c.async <- err },
	}
}

// wait gives what arrives on ch, and fails the test if nothing does.
func wait[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %v for: %s", patience, what)
		panic("not reached")
	}
}

// eventually waits until condition holds, and fails the test if it never does.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited %v for: %s", patience, what)
		}
	}
}

// connect is Connect with quick reconnects, a log that can be read, and an end.
func connect(t *testing.T, cfg config.NATS, h Handlers, opts ...nats.Option) (*nats.Conn, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	nc, err := Connect(cfg, "test", h, zap.New(core), append(append([]nats.Option(nil), quick...), opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc, logs
}
