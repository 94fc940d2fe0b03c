package ws

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/sys/unix"
)

// sendUrgent sends one byte of TCP's urgent data.
func sendUrgent(t *testing.T, conn net.Conn) {
	t.Helper()
	raw, err := tcpOf(conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = syscall.Sendto(int(fd), []byte{'!'}, syscall.MSG_OOB, nil)
	}); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
}

func TestHandlerThatPanicsLosesItsConnectionOnly(t *testing.T) {
	core, logs := observer.New(zapcore.ErrorLevel)
	s := serve(t, Config{Pollers: 1, Log: zap.New(core)}, func(e *echo) {
		e.onMessage = func(e *echo, text bool, payload []byte) {
			if string(payload) == "panic" {
				panic("handler's mistake")
			}
			e.send(AppendFrame(nil, OpText, payload))
		}
	})
	other := dialRaw(t, s.addr, nil)
	s.next(t)
	dialRaw(t, s.addr, frame(fin|0x1, "panic"))
	wait(t, s.next(t).ended, "OnGone")
	conn := dialRaw(t, s.addr, nil)
	e := s.next(t)
	if _, err := conn.Write(frame(fin|0x1, "panic")); err != nil {
		t.Fatal(err)
	}
	wait(t, e.ended, "OnGone")
	if n := s.engine.Panics(); n != 2 {
		t.Errorf("%d panics were counted", n)
	}
	if logs.FilterMessage("connection handler panicked").Len() != 2 {
		t.Errorf("log: %v", logs.All())
	}
	if _, err := other.Write(frame(fin|0x1, "ok")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(other, make([]byte, 4)); err != nil {
		t.Errorf("another connection suffers: %v", err)
	}
}

// panicky is an owner whose OnWritten and OnGone panic.
type panicky struct {
	recorder
	Conn
	gone chan struct{}
}

func (p *panicky) OnWritten(int) { panic("written") }
func (p *panicky) OnGone(error)  { close(p.gone); panic("gone") }

func TestPanicsUnderNbiosLockDoNotHoldIt(t *testing.T) {
	e := NewEngine(Config{})
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	defer e.Stop()
	client, served := pair(t)
	p := &panicky{gone: make(chan struct{})}
	if err := e.Adopt(&p.Conn, p, served, nil); err != nil {
		t.Fatal(err)
	}
	if err := p.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	wait(t, p.gone, "OnGone")
	until(t, "the second panic", func() bool { return e.Panics() == 2 })
	if _, err := io.ReadAll(client); err != nil {
		t.Error(err)
	}
}

// pair is a TCP connection and its other end.
func pair(t testing.TB) (client, served net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	client, err = net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if served, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	return client, served
}

func TestEngineThatDoesNotRunClosesWhatItIsGiven(t *testing.T) {
	stopped := NewEngine(Config{})
	if err := stopped.Start(); err != nil {
		t.Fatal(err)
	}
	stopped.Stop()
	stopped.Stop()
	for name, e := range map[string]*Engine{"never started": NewEngine(Config{}), "stopped": stopped} {
		client, served := pair(t)
		owner := newEcho()
		if err := e.Adopt(&owner.Conn, owner, served, frame(fin|0x1, "x")); !errors.Is(err, ErrStopped) {
			t.Errorf("%s: %v", name, err)
		}
		if err := owner.Write([]byte("x")); !errors.Is(err, ErrNotOpen) {
			t.Errorf("%s: write: %v", name, err)
		}
		_ = client.SetReadDeadline(time.Now().Add(patience))
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%s: client reads %v", name, err)
		}
		if owner.gone.Load() != 0 {
			t.Errorf("%s: OnGone came", name)
		}
	}
	NewEngine(Config{}).Stop()
}

// wrapped is a connection that nbio does not know.
type wrapped struct{ net.Conn }

func TestOnlyTCPConnectionsAreAdopted(t *testing.T) {
	e := NewEngine(Config{})
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	defer e.Stop()
	_, served := pair(t)
	owner := newEcho()
	err := e.Adopt(&owner.Conn, owner, wrapped{served}, nil)
	if err == nil || !strings.Contains(err.Error(), "no TCP connection") {
		t.Errorf("error %v", err)
	}
	if _, err := served.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the connection is still open: %v", err)
	}
}

func TestEngineStopsRightAfterItsStart(t *testing.T) {
	for range 300 {
		e := NewEngine(Config{Pollers: 4})
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { e.Stop(); close(ended) }()
		wait(t, ended, "the engine's end")
	}
}

func TestStopWhileConnectionsComeLeavesNoneBehind(t *testing.T) {
	for range 20 {
		e := NewEngine(Config{Pollers: 2})
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var adopted []*echo
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				for range 10 {
					_, served := pair(t)
					owner := newEcho()
					if e.Adopt(&owner.Conn, owner, served, nil) == nil {
						mu.Lock()
						adopted = append(adopted, owner)
						mu.Unlock()
					}
				}
			})
		}
		until(t, "the first connection", func() bool { mu.Lock(); defer mu.Unlock(); return len(adopted) > 0 })
		e.Stop()
		group.Wait()
		for _, owner := range adopted {
			if n := owner.gone.Load(); n != 1 {
				t.Fatalf("OnGone came %d times", n)
			}
		}
	}
}

func TestNbiosWarningsReachTheEnginesLog(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	e := NewEngine(Config{Log: zap.New(core)})
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	defer e.Stop()
	nbioLines().Error("NBIO[%v] broke: %v", e.name, "cause")
	nbioLines().Warn("NBIO[%v] %v", e.name, "mind")
	nbioLines().Error("NBIO[%v] %v", "another", "not ours")
	if logs.Len() != 2 || logs.All()[0].ContextMap()["line"] != "NBIO["+e.name+"] broke: cause" {
		t.Errorf("log: %v", logs.All())
	}
}

func TestWhatTheEdgeStartsInheritsNoSocket(t *testing.T) {
	e := NewEngine(Config{})
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	defer e.Stop()
	_, served := pair(t)
	p := &panicky{gone: make(chan struct{})}
	if err := e.Adopt(&p.Conn, p, served, nil); err != nil {
		t.Fatal(err)
	}
	flags, err := unix.FcntlInt(uintptr(p.nb.Load().Hash()), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x, %v: a child would hold the socket, whose end the kernel reports then under its number, which may be another's", flags, err)
	}
}
