package ws

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
)

// orphans counts the connections of a local port of which the kernel still has something
// to send, though nobody owns them any more (state FIN_WAIT1 in /proc/net/tcp).
func orphans(t *testing.T, port int) (n int) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if words := strings.Fields(line); words[1] == fmt.Sprintf("0100007F:%04X", port) && words[3] == "04" {
			n++
		}
	}
	return n
}

func TestTheKernelForgetsConnectionsThatWereCutWhileTheirPeerDidNotRead(t *testing.T) {
	s := serve(t, Config{}, nil)
	conn := dialRaw(t, s.addr, nil)
	e := s.next(t)
	for range 200 {
		e.send(AppendFrame(nil, OpBinary, make([]byte, 60_000)))
	}
	e.Cut()
	wait(t, e.ended, "OnGone")
	port := conn.RemoteAddr().(*net.TCPAddr).Port
	if n := orphans(t, port); n != 1 {
		t.Fatalf("%d orphans, want one: the peer has read", n)
	}
	until(t, "the orphan's end", func() bool { return orphans(t, port) == 0 })
}

func TestMoreFramesThanAllowedInASecondAreAViolation(t *testing.T) {
	const limit = 50
	for _, c := range []struct{ name, frame string }{
		{"messages", string(frame(fin|0x1, "x"))},
		{"Pings", string(frame(fin|0x9, ""))},
		{"Pongs that nobody awaits", string(frame(fin|0xA, ""))},
	} {
		s := serve(t, Config{MaxFrames: limit}, nil)
		conn := dialRaw(t, s.addr, nil)
		e := s.next(t)
		// So many that they are over the limit in one of two seconds.
		if _, err := conn.Write(bytes.Repeat([]byte(c.frame), 2*limit+1)); err != nil {
			t.Fatal(err)
		}
		wait(t, e.ended, "OnGone")
		if code := e.violation.Load(); code != int64(ClosePolicy) {
			t.Errorf("%s: violation %d, want 1008", c.name, code)
		}
	}
}

func TestFragmentsCountAsFrames(t *testing.T) {
	const limit = 50
	s := serve(t, Config{MaxFrames: limit}, nil)
	conn := dialRaw(t, s.addr, nil)
	e := s.next(t)
	pieces := append(frame(0x1, ""), bytes.Repeat(frame(0, ""), 2*limit)...)
	if _, err := conn.Write(pieces); err != nil {
		t.Fatal(err)
	}
	wait(t, e.ended, "OnGone")
	if code := e.violation.Load(); code != int64(ClosePolicy) {
		t.Errorf("violation %d, want 1008", code)
	}
}

func TestPongsThatAnswerPingsDoNotCount(t *testing.T) {
	const limit, pings = 50, 500
	s := serve(t, Config{MaxFrames: limit}, nil)
	conn := dialRaw(t, s.addr, nil)
	e := s.next(t)
	for range pings {
		e.ExpectPong()
	}
	if _, err := conn.Write(bytes.Repeat(frame(fin|0xA, ""), pings)); err != nil {
		t.Fatal(err)
	}
	until(t, "every Pong", func() bool { return e.pongs.Load() == pings })
	if code := e.violation.Load(); code != 0 {
		t.Errorf("violation %d", code)
	}
}
