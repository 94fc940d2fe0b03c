package ws

import (
	"bufio"
	"crypto/tls"
	"testing"
)

// halfRecord is the first byte of a TLS record of 16 KiB, and what stands before it.
const halfRecord = "\x17\x03\x03\x40\x10x"

func TestATLSRecordThatIsNotFinishedInTimeIsAViolation(t *testing.T) {
	for name, bytes := range map[string]string{
		"first bytes": "\x17\x03\x03\x40",
		"payload":     halfRecord,
	} {
		t.Run(name, func(t *testing.T) {
			s := serveOver(t, true, Config{}, nil)
			conn := dialTLS(t, s.addr, &tls.Config{})
			e := s.next(t)
			if _, err := conn.NetConn().Write([]byte(bytes)); err != nil {
				t.Fatal(err)
			}
			until(t, "the beginning of a record", func() bool { return s.engine.Unfinished() > 0 })
			_, _, began := s.engine.partials.oldest()
			s.engine.overdue(began + finishSeconds)
			if code := e.violation.Load(); code != 0 {
				t.Fatalf("violation %d before its time", code)
			}
			s.engine.overdue(began + finishSeconds + 1)
			wait(t, e.ended, "OnGone")
			if code := e.violation.Load(); code != int64(CloseTryLater) {
				t.Errorf("violation %d, want 1013", code)
			}
			if n := s.engine.Unfinished(); n != 0 {
				t.Errorf("%d bytes are held, want none", n)
			}
		})
	}
}

func TestUnfinishedTLSRecordsAreBoundedTogether(t *testing.T) {
	const sockets, most = 64, 512 << 10
	s := serveOver(t, true, Config{MaxUnfinished: most}, nil)
	var all []*echo
	for range sockets {
		conn := dialTLS(t, s.addr, &tls.Config{})
		e := s.next(t)
		if _, err := conn.NetConn().Write([]byte(halfRecord)); err != nil {
			t.Fatal(err)
		}
		until(t, "the beginning of a record", func() bool {
			e.turn.Lock()
			defer e.turn.Unlock()
			return e.secure.part != nil
		})
		until(t, "room", func() bool { return s.engine.Unfinished() <= most })
		all = append(all, e)
	}
	ended := 0
	for _, e := range all {
		if e.violation.Load() == int64(CloseTryLater) {
			ended++
		}
	}
	if least := sockets - most/(16<<10); ended < least || ended == sockets {
		t.Errorf("%d of %d sockets were closed, want %d at least", ended, sockets, least)
	}
}

func TestARecordThatIsReadIsFinished(t *testing.T) {
	s := serveOver(t, true, Config{}, nil)
	conn := dialTLS(t, s.addr, &tls.Config{})
	e := s.next(t)
	answers := bufio.NewReader(conn)
	for range 3 {
		if _, err := conn.Write(frame(fin|0x9, "Ping")); err != nil {
			t.Fatal(err)
		}
		if b, err := answers.ReadString('g'); err != nil || b != string(AppendFrame(nil, OpPong, []byte("Ping"))) {
			t.Fatalf("got %q, %v, want a Pong", b, err)
		}
	}
	e.turn.Lock()
	defer e.turn.Unlock()
	if n := s.engine.Unfinished(); n != 0 || e.secure.part != nil {
		t.Errorf("%d bytes are held after whole records", n)
	}
}

func TestAHandshakeThatIsOverLeavesNothingUnfinished(t *testing.T) {
	s := serveOver(t, true, Config{}, nil)
	dialTLS(t, s.addr, &tls.Config{})
	e := s.next(t)
	e.turn.Lock()
	defer e.turn.Unlock()
	if n := s.engine.Unfinished(); n != 0 || e.secure.part != nil {
		t.Errorf("%d bytes are held of a new socket", n)
	}
}

func TestRecordsAreFollowedInWhateverPiecesTheyCome(t *testing.T) {
	record := func(n int) string {
		return "\x17\x03\x03" + string([]byte{byte(n >> 8), byte(n)}) + string(make([]byte, n))
	}
	text := record(30) + record(0) + record(16400) + record(2)
	for _, size := range []int{1, 2, 4, 7, 1000, len(text)} {
		var r records
		for rest := []byte(text); len(rest) > 0; {
			n := min(size, len(rest))
			r.take(rest[:n])
			rest = rest[n:]
		}
		if r.whole != 4 || r.begun || r.had != 0 || r.silent != 30+16400+2 {
			t.Errorf("in pieces of %d: %+v", size, r)
		}
	}
	var r records
	r.take([]byte(record(30)))
	if n := r.unfinished(); n != 0 {
		t.Errorf("a change of keys leaves %d bytes unfinished", n)
	}
	for range 4 {
		r.take([]byte(record(fewSilent)))
	}
	if n := r.unfinished(); n < 4*fewSilent {
		t.Errorf("%d bytes of a long handshake count, want %d at least", n, 4*fewSilent)
	}
	r.take([]byte(record(100))[:50])
	if n := r.unfinished(); n < 4*fewSilent+100 {
		t.Errorf("%d bytes of a long handshake and half a record count", n)
	}
	r.heard()
	if n := r.unfinished(); n != recordHeader+100 {
		t.Errorf("%d bytes of half a record count, want %d", n, recordHeader+100)
	}
}
