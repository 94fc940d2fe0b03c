package ws

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"canopy/edge/internal/certtest"
)

func dial(t testing.TB, url string) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: certtest.Client()}}
	c, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(-1)
	t.Cleanup(func() { _ = c.CloseNow() })
	return c
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestMessagesOfEverySizeAreEchoed(t *testing.T) {
	s := serve(t, Config{}, nil)
	c := dial(t, s.url)
	ctx := within(t)
	for _, size := range []int{0, 1, 125, 126, 1000, 65535, 65536} {
		want := bytes.Repeat([]byte{'x'}, size)
		if err := c.Write(ctx, websocket.MessageText, want); err != nil {
			t.Fatal(err)
		}
		kind, got, err := c.Read(ctx)
		if err != nil || kind != websocket.MessageText || !bytes.Equal(got, want) {
			t.Fatalf("size %d: %d bytes of kind %v came back, error %v", size, len(got), kind, err)
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Errorf("close handshake: %v", err)
	}
	e := s.next(t)
	wait(t, e.ended, "OnGone")
	if err := e.why.Load().(goneError).error; err != nil && !errors.Is(err, io.EOF) {
		t.Errorf("gone with %v", err)
	}
}

func TestFragmentsAreEchoedAsOneMessage(t *testing.T) {
	s := serve(t, Config{}, nil)
	c := dial(t, s.url)
	w, err := c.Writer(within(t), websocket.MessageBinary)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := w.Write(bytes.Repeat([]byte{7}, 5000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, got, err := c.Read(within(t))
	if err != nil || len(got) != 50_000 {
		t.Fatalf("%d bytes came back, error %v", len(got), err)
	}
}

func TestPingsAreAnsweredAndPongsHeard(t *testing.T) {
	s := serve(t, Config{}, nil)
	c := dial(t, s.url)
	e := s.next(t)
	read := c.CloseRead(context.Background())
	if err := c.Ping(within(t)); err != nil {
		t.Fatalf("ping: %v", err)
	}
	e.send(AppendFrame(nil, OpPing, []byte("tag")))
	until(t, "the pong", func() bool { return e.pongs.Load() == 1 })
	if read.Err() != nil {
		t.Error("connection ended")
	}
}

func TestTooBigMessagesAreRefusedWithACloseFrame(t *testing.T) {
	s := serve(t, Config{MaxMessage: 1000}, nil)
	c := dial(t, s.url)
	if err := c.Write(within(t), websocket.MessageText, make([]byte, 1001)); err != nil {
		t.Fatal(err)
	}
	_, _, err := c.Read(within(t))
	if websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
		t.Fatalf("read: %v", err)
	}
	wait(t, s.next(t).ended, "OnGone")
}

func TestFramesSentWithTheHandshakeAreReadFirstAndInOrder(t *testing.T) {
	for range 100 {
		s := serve(t, Config{}, nil)
		conn := dialRaw(t, s.addr, join(frame(fin|0x1, "a"), frame(0x1, "b"), frame(fin, "c")[:5]))
		if _, err := conn.Write(append(frame(fin, "c")[5:], frame(fin|0x1, "d")...)); err != nil {
			t.Fatal(err)
		}
		want := "\x81\x01a\x81\x02bc\x81\x01d"
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
			t.Fatalf("got %q, error %v, want %q", got, err, want)
		}
		_ = conn.Close()
	}
}

func TestEarlyCloseFrameEndsTheConnection(t *testing.T) {
	s := serve(t, Config{}, nil)
	conn := dialRaw(t, s.addr, join(frame(fin|0x1, "a"), frame(fin|0x8, "\x03\xe8"), frame(fin|0x1, "late")))
	got, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
		t.Fatal(err)
	}
	if want := "\x81\x01a\x88\x02\x03\xe8"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	wait(t, s.next(t).ended, "OnGone")
}

func TestFramesThatComeByteByByteAreRead(t *testing.T) {
	s := serve(t, Config{}, nil)
	conn := dialRaw(t, s.addr, nil)
	for _, b := range join(frame(0x1, "sl"), frame(fin, "ow")) {
		if _, err := conn.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 6)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "\x81\x04slow" {
		t.Fatalf("got %q, error %v", got, err)
	}
}

func TestUrgentDataDoesNotDisturb(t *testing.T) {
	s := serve(t, Config{Pollers: 1}, nil)
	conn := dialRaw(t, s.addr, nil)
	sendUrgent(t, conn)
	if _, err := conn.Write(frame(fin|0x1, "after")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 7)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "\x81\x05after" {
		t.Fatalf("got %q, error %v", got, err)
	}
}

func TestManyConnectionsEachAreGoneOnce(t *testing.T) {
	const workers = 10
	each := 100
	if overTLS(t) {
		each = 20 // handshakes are dear
	}
	s := serve(t, Config{Pollers: 2}, nil)
	var group sync.WaitGroup
	for i := range workers {
		group.Go(func() {
			for j := range each {
				conn := dialRaw(t, s.addr, frame(fin|0x1, "x"))
				_, err := io.ReadFull(conn, make([]byte, 3))
				if err != nil {
					t.Errorf("echo: %v", err)
				}
				e := s.next(t)
				switch (i + j) % 4 {
				case 0:
					_ = conn.Close()
				case 1:
					e.Cut()
				case 2:
					go e.Cut()
					_ = conn.Close()
				case 3:
					_, _ = conn.Write(frame(fin|0x8, "\x03\xe8"))
				}
				wait(t, e.ended, "OnGone")
				_ = conn.Close()
			}
		})
	}
	group.Wait()
	s.engine.Stop() // after it no callback comes
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) != workers*each {
		t.Errorf("%d connections were opened", len(s.conns))
	}
	for _, e := range s.conns {
		if n := e.gone.Load(); n != 1 {
			t.Errorf("OnGone came %d times", n)
		}
	}
}

func TestEverythingWrittenToAStalledReaderIsReportedOnceItReads(t *testing.T) {
	s := serve(t, Config{}, nil)
	conn := dialRaw(t, s.addr, nil)
	e := s.next(t)
	message := AppendFrame(nil, OpBinary, make([]byte, 60_000))
	total := 0
	for range 200 {
		e.send(message)
		total += len(message)
	}
	if taken := e.taken.Load(); taken == int64(total) {
		t.Fatalf("the reader was not stalled: the kernel took all of %d bytes", taken)
	} else if held := s.engine.Held(); held < int64(total)-taken-1<<20 { // TLS reports whole writes only
		t.Errorf("%d bytes are held for a reader that is owed %d", held, int64(total)-taken)
	}
	if n, err := io.CopyN(io.Discard, conn, int64(total)); err != nil {
		t.Fatalf("read %d: %v", n, err)
	}
	until(t, "the account's end", func() bool { return e.taken.Load() == int64(total) })
	until(t, "the end of what is held", func() bool { return s.engine.Held() == 0 })
}

func TestConcurrentWritersDoNotInterleaveFrames(t *testing.T) {
	const writers, each = 4, 500
	s := serve(t, Config{}, nil)
	c := dial(t, s.url)
	e := s.next(t)
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			for range each {
				e.send(AppendFrame(nil, OpBinary, bytes.Repeat([]byte{byte(i)}, 3000)))
			}
		})
	}
	for range writers * each {
		_, got, err := c.Read(within(t))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 3000 || bytes.Count(got, got[:1]) != 3000 {
			t.Fatal("frames were mixed")
		}
	}
	group.Wait()
}

func TestFullWriteBufferEndsTheConnection(t *testing.T) {
	s := serve(t, Config{MaxWriteBuffer: 1 << 20}, nil)
	dialRaw(t, s.addr, nil)
	e := s.next(t)
	message := AppendFrame(nil, OpBinary, make([]byte, 60_000))
	var err error
	for range 1000 {
		if err = e.Write(message); err != nil {
			break
		}
	}
	if err == nil {
		t.Fatal("60 MB were taken for a reader that does not read")
	}
	wait(t, e.ended, "OnGone")
	if err := e.why.Load().(goneError).error; err == nil {
		t.Error("gone without a cause")
	}
}

func TestCutFromAnotherGoroutineEndsTheConnectionWithoutAnError(t *testing.T) {
	s := serve(t, Config{}, nil)
	conn := dialRaw(t, s.addr, nil)
	e := s.next(t)
	var group sync.WaitGroup
	for range 4 {
		group.Go(e.Cut)
	}
	group.Wait()
	wait(t, e.ended, "OnGone")
	if err := e.why.Load().(goneError).error; err != nil {
		t.Errorf("gone with %v", err)
	}
	if err := e.Write([]byte("x")); err == nil {
		t.Error("a write after the end was taken")
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("client reads %v", err)
	}
}

func TestCutDropsWhatTheKernelHasNotTaken(t *testing.T) {
	s := serve(t, Config{}, nil)
	dialRaw(t, s.addr, nil)
	e := s.next(t)
	for range 200 {
		e.send(AppendFrame(nil, OpBinary, make([]byte, 60_000)))
	}
	e.Cut()
	wait(t, e.ended, "OnGone")
	if e.taken.Load() == e.given.Load() {
		t.Error("the reader was not stalled")
	}
	if held := s.engine.Held(); held != 0 {
		t.Errorf("%d bytes are held for a connection that is gone", held)
	}
}

func TestNothingIsHandedOverAfterCut(t *testing.T) {
	s := serve(t, Config{}, func(e *echo) {
		e.onMessage = func(e *echo, _ bool, _ []byte) { e.pongs.Add(1); e.Cut() }
	})
	dialRaw(t, s.addr, join(frame(fin|0x1, "first"), frame(fin|0x1, "second")))
	e := s.next(t)
	wait(t, e.ended, "OnGone")
	if n := e.pongs.Load(); n != 1 {
		t.Errorf("%d messages were handed over", n)
	}
}

func TestConnectionCutBeforeItIsAdoptedIsClosed(t *testing.T) {
	s := serve(t, Config{}, func(e *echo) { e.Cut() })
	conn := dialRaw(t, s.addr, frame(fin|0x1, "x"))
	if got, err := io.ReadAll(conn); len(got) > 0 || err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("client reads %q, %v", got, err)
	}
	wait(t, s.next(t).ended, "OnGone")
}

func TestCloseWriteLetsThePeerEndIt(t *testing.T) {
	s := serve(t, Config{}, nil)
	conn := dialRaw(t, s.addr, nil)
	e := s.next(t)
	e.send(AppendClose(nil, ClosePolicy, "go"))
	until(t, "the close frame's way out", func() bool { return e.taken.Load() == e.given.Load() })
	e.CloseWrite()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "\x88\x04\x03\xf0go" {
		t.Fatalf("client reads %q, %v", got, err)
	}
	if e.gone.Load() != 0 {
		t.Error("the connection ended before the client closed")
	}
	_ = conn.Close()
	wait(t, e.ended, "OnGone")
}

func TestPeerThatVanishesIsGoneWithACause(t *testing.T) {
	s := serve(t, Config{}, nil)
	for _, reset := range []bool{false, true} {
		conn := dialRaw(t, s.addr, nil)
		e := s.next(t)
		if reset {
			if err := tcpOf(conn).SetLinger(0); err != nil {
				t.Fatal(err)
			}
		}
		_ = conn.Close()
		wait(t, e.ended, "OnGone")
		if err := e.why.Load().(goneError).error; err == nil {
			t.Errorf("reset %v: gone without a cause", reset)
		}
	}
}

func TestHalfClosedPeersLastFramesAreReadAndAnswered(t *testing.T) {
	s := serve(t, Config{}, nil)
	for range 50 {
		conn := dialRaw(t, s.addr, nil)
		if _, err := conn.Write(join(frame(fin|0x1, "a"), frame(fin|0x8, "\x03\xe8"))); err != nil {
			t.Fatal(err)
		}
		if err := tcpOf(conn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		if want := "\x81\x01a\x88\x02\x03\xe8"; err != nil || string(got) != want {
			t.Fatalf("got %q, error %v, want %q", got, err, want)
		}
	}
}

func TestLastHeardFollowsTheEnginesClock(t *testing.T) {
	s := serve(t, Config{}, nil)
	conn := dialRaw(t, s.addr, nil)
	e := s.next(t)
	first := e.LastHeard()
	if first == 0 {
		t.Fatal("an adopted connection was never heard")
	}
	until(t, "the clock's next second", func() bool { return s.engine.Now() > first+1 })
	if e.LastHeard() != first {
		t.Error("heard without a byte")
	}
	if _, err := conn.Write([]byte{fin | 0x1}); err != nil { // a single byte of a frame
		t.Fatal(err)
	}
	until(t, "a sign of life", func() bool { return e.LastHeard() > first })
}

func TestStopEndsIdleConnections(t *testing.T) {
	s := serve(t, Config{}, nil)
	conn := dialRaw(t, s.addr, nil)
	e := s.next(t)
	s.engine.Stop()
	if n := e.gone.Load(); n != 1 {
		t.Errorf("OnGone came %d times", n)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("client reads %v", err)
	}
}
