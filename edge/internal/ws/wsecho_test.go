package ws

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"canopy/edge/internal/certtest"
)

// echo is an owner that sends every message back, answers Pings and close frames, and cuts
// when the kernel has taken everything.
type echo struct {
	Conn
	given, taken atomic.Int64
	closing      atomic.Bool
	pongs        atomic.Int64
	gone         atomic.Int64
	violation    atomic.Int64
	unread       atomic.Value // Unread
	why          atomic.Value // error of OnGone, wrapped in a goneError
	ended        chan struct{}
	onMessage    func(*echo, bool, []byte) // instead of echoing
	onGone       func()
}

type goneError struct{ error }

func newEcho() *echo { return &echo{ended: make(chan struct{})} }

// send writes and keeps the account that OnWritten settles.
func (e *echo) send(b []byte) {
	e.given.Add(int64(len(b)))
	_ = e.Write(b)
}

func (e *echo) OnMessage(text bool, payload []byte) {
	if e.onMessage != nil {
		e.onMessage(e, text, payload)
		return
	}
	op := OpBinary
	if text {
		op = OpText
	}
	e.send(AppendFrame(nil, op, payload))
}

func (e *echo) OnPing(payload []byte) { e.send(AppendFrame(nil, OpPong, payload)) }
func (e *echo) OnPong([]byte)         { e.pongs.Add(1) }

func (e *echo) OnClose(code uint16, _ string) { e.end(code, "") }

func (e *echo) OnViolation(code uint16, reason string) {
	e.violation.Store(int64(code))
	e.end(code, reason)
}

// end sends a close frame and cuts once it is out.
func (e *echo) end(code uint16, reason string) {
	e.send(AppendClose(nil, code, reason))
	e.closing.Store(true)
	if e.taken.Load() == e.given.Load() {
		e.Cut()
	}
}

func (e *echo) OnWritten(n int) {
	if e.taken.Add(int64(n)) == e.given.Load() && e.closing.Load() {
		go e.Cut()
	}
}

func (e *echo) OnUnread(why Unread) { e.unread.Store(why) }

func (e *echo) OnGone(err error) {
	e.why.Store(goneError{err})
	if e.gone.Add(1) == 1 {
		close(e.ended)
	}
	if e.onGone != nil {
		e.onGone()
	}
}

// server is an HTTP server whose sockets are echoes.
type server struct {
	engine *Engine
	addr   string
	url    string

	mu    sync.Mutex
	conns []*echo
	news  chan *echo // every connection once it was adopted
}

// serve starts a server. prepare, if not nil, changes each echo before it is adopted.
func serve(t testing.TB, config Config, prepare func(*echo)) *server {
	t.Helper()
	return serveOver(t, overTLS(t), config, prepare)
}

// serveOver is serve with or without TLS.
func serveOver(t testing.TB, secure bool, config Config, prepare func(*echo)) *server {
	t.Helper()
	if config.Log == nil {
		config.Log = zap.NewNop()
	}
	s := &server{engine: NewEngine(config), news: make(chan *echo, 20_000)}
	if err := s.engine.Start(); err != nil {
		t.Fatal(err)
	}
	listener, err := Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = listener.Addr().String()
	s.url = "ws://" + s.addr + "/"
	if secure {
		listener = Secure(listener, certtest.Server(t), Opening{})
		s.url = "wss://" + s.addr + "/"
	}
	web := &http.Server{ReadHeaderTimeout: 30 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.open(w, r, prepare)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = web.Serve(listener) })
	t.Cleanup(func() {
		_ = web.Close()
		serving.Wait()
		s.engine.Stop()
	})
	return s
}

// open is the handshake, as a gateway does it.
func (s *server) open(w http.ResponseWriter, r *http.Request, prepare func(*echo)) {
	if err := CheckUpgrade(r); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	conn, early, err := Accept(w, r, "", Offer{})
	if err != nil {
		return
	}
	e := newEcho()
	if prepare != nil {
		prepare(e)
	}
	s.mu.Lock()
	s.conns = append(s.conns, e)
	s.mu.Unlock()
	if err := s.engine.Adopt(&e.Conn, e, conn, early); err == nil {
		s.news <- e
	}
}

// next returns the next connection that was adopted.
func (s *server) next(t testing.TB) *echo {
	t.Helper()
	select {
	case e := <-s.news:
		return e
	case <-time.After(patience):
		t.Fatal("no connection was adopted")
		return nil
	}
}

// patience bounds every wait for what must come.
const patience = 20 * time.Second

// wait waits until ended is closed.
func wait(t testing.TB, ended <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatalf("%s did not come", what)
	}
}

// until waits until a condition holds.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come", what)
		}
		time.Sleep(time.Millisecond)
	}
}

const handshake = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// dialRaw connects, sends the handshake and first behind it in one write, and returns the
// connection behind the server's 101.
func dialRaw(t testing.TB, addr string, first []byte) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if overTLS(t) {
		conn = tls.Client(conn, certtest.Client())
	}
	t.Cleanup(func() { _ = conn.Close() })
	upgrade(t, conn, first)
	return conn
}

// upgrade does the handshake on conn, reading byte by byte up to the end of the 101.
func upgrade(t testing.TB, conn net.Conn, first []byte) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(append([]byte(handshake), first...)); err != nil {
		t.Fatal(err)
	}
	var answer []byte
	one := make([]byte, 1)
	for len(answer) < 4 || string(answer[len(answer)-4:]) != "\r\n\r\n" {
		if _, err := conn.Read(one); err != nil {
			t.Fatalf("answer so far %q: %v", answer, err)
		}
		answer = append(answer, one[0])
	}
	const status = "HTTP/1.1 101 "
	if string(answer[:len(status)]) != status {
		t.Fatalf("answer %q", answer)
	}
}
