package ws

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// adopted is an echo on an engine whose WriteFast is fast, and its client.
func adopted(t *testing.T) (*echo, *Engine, net.Conn) {
	t.Helper()
	engine := NewEngine(Config{Spared: true})
	if err := engine.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(engine.Stop)
	client, served := pair(t)
	e := newEcho()
	if err := engine.Adopt(&e.Conn, e, served, nil); err != nil {
		t.Fatal(err)
	}
	return e, engine, client
}

// keeps says whether nbio keeps bytes of c.
func keeps(c *Conn) bool {
	nb := c.nb.Load()
	nb.Lock()
	defer nb.Unlock()
	return c.held != nil
}

func TestWhatOthersWriteComesBehindTheEndOfAFrame(t *testing.T) {
	e, _, client := adopted(t)
	nb := e.nb.Load()
	half := func(fd int, b []byte) (int, error) { return unix.Write(fd, b[:len(b)/2]) }
	rest, err := e.try(nb, []byte("abcdef"), half)
	if err != nil || string(rest) != "def" || e.taken.Load() != 3 {
		t.Fatalf("%q is left, %d bytes are reported: %v", rest, e.taken.Load(), err)
	}
	for _, write := range []func([]byte) error{e.Write, e.WriteFast} {
		if err := write([]byte("gh")); err != nil {
			t.Fatal(err)
		}
	}
	if n := e.taken.Load(); n != 3 {
		t.Fatalf("%d bytes are reported, some of them in the middle of a frame", n)
	}
	for _, want := range []string{"ghgh", ""} {
		if _, err := nb.Write(rest); err != nil {
			t.Fatal(err)
		}
		if rest = e.handed(nb); string(rest) != want {
			t.Fatalf("%q comes next, want %q", rest, want)
		}
	}
	if keeps(&e.Conn) {
		t.Error("nbio still keeps something")
	}
	if err := e.WriteFast([]byte("ij")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("abcdefghghij"))
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "abcdefghghij" {
		t.Errorf("%q came: %v", got, err)
	}
	if n := e.taken.Load(); n != int64(len(got)) {
		t.Errorf("%d bytes are reported of %d", n, len(got))
	}
}

func TestWritersOfEveryKindDoNotInterleaveFrames(t *testing.T) {
	const writers, each, size = 6, 300, 3000
	s := serveOver(t, false, Config{Spared: true}, nil)
	c := dial(t, s.url)
	e := s.next(t)
	var cut atomic.Int64
	part := func(fd int, b []byte) (int, error) {
		cut.Add(1)
		return unix.Write(fd, b[:len(b)/3])
	}
	kinds := []func([]byte) error{e.Write, e.WriteFast, func(b []byte) error { return e.write(b, part) }}
	send := func(i int, kind func([]byte) error) {
		b := AppendFrame(nil, OpBinary, bytes.Repeat([]byte{byte(i)}, size))
		e.given.Add(int64(len(b)))
		if err := kind(b); err != nil {
			t.Error(err)
		}
	}
	send(0, kinds[2]) // nothing is held yet, so this one is cut short
	if cut.Load() == 0 {
		t.Fatal("no write was cut short")
	}
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			for range each {
				send(i, kinds[i%len(kinds)])
			}
		})
	}
	for range 1 + writers*each {
		_, got, err := c.Read(within(t))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != size || bytes.Count(got, got[:1]) != size {
			t.Fatal("frames were mixed")
		}
	}
	group.Wait()
	until(t, "the account's end", func() bool { return e.taken.Load() == e.given.Load() && !keeps(&e.Conn) })
}

func TestAStalledReaderGetsFastWritesInOrder(t *testing.T) {
	const size, events = 60_000, 200
	e, engine, client := adopted(t)
	for i := range events {
		write := e.WriteFast
		if i%10 == 9 {
			write = e.Write
		}
		if err := write(bytes.Repeat([]byte{byte(i)}, size)); err != nil {
			t.Fatal(err)
		}
	}
	taken, held := e.taken.Load(), engine.Held()
	if taken == size*events || held < size*events-e.taken.Load() {
		t.Fatalf("the kernel took %d bytes of %d, %d are held", taken, size*events, held)
	}
	got := make([]byte, size)
	for i := range events {
		if _, err := io.ReadFull(client, got); err != nil || bytes.Count(got, []byte{byte(i)}) != size {
			t.Fatalf("event %d did not come in one piece: %v", i, err)
		}
	}
	until(t, "the account's end", func() bool {
		return e.taken.Load() == size*events && engine.Held() == 0 && !keeps(&e.Conn)
	})
}

func TestAFastWriteToAPeerThatIsGoneEndsTheConnection(t *testing.T) {
	e, _, client := adopted(t)
	if err := client.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "an error", func() bool { return e.WriteFast([]byte("x")) != nil })
	wait(t, e.ended, "OnGone")
	if err := e.why.Load().(goneError).error; err == nil {
		t.Error("gone without a cause")
	}
	if err := e.WriteFast([]byte("x")); err == nil {
		t.Error("a write after the end was taken")
	}
}
