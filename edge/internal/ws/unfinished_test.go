package ws

import (
	"encoding/binary"
	"math/rand/v2"
	"net"
	"testing"
)

// begin sends all but the last byte of a text message of n bytes.
func begin(t *testing.T, conn net.Conn, n int) {
	t.Helper()
	if _, err := conn.Write(message(n)[:14+n-1]); err != nil {
		t.Fatal(err)
	}
}

// message is a text message of n bytes, with a header of 14.
func message(n int) []byte {
	b := make([]byte, 14+n)
	b[0], b[1] = fin|0x1, masked|127
	binary.BigEndian.PutUint64(b[2:], uint64(n))
	return b
}

func TestAMessageThatIsNotFinishedInTimeIsAViolation(t *testing.T) {
	for name, bytes := range map[string][]byte{
		"payload":           message(1000)[:500],
		"header":            message(1000)[:5],
		"between fragments": frame(0x1, "x"),
		"Ping":              frame(fin|0x9, "hello")[:8],
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Config{}, nil)
			conn := dialRaw(t, s.addr, nil)
			e := s.next(t)
			dialRaw(t, s.addr, nil)
			idle := s.next(t)
			if _, err := conn.Write(bytes); err != nil {
				t.Fatal(err)
			}
			until(t, "the beginning of a message", func() bool { return s.engine.Unfinished() > 0 })
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
			if n := s.engine.Unfinished(); n != 0 || idle.gone.Load() != 0 {
				t.Errorf("%d bytes are held, want none; %d others were closed", n, idle.gone.Load())
			}
		})
	}
}

func TestTheEnginesClockEndsWhatIsNotFinished(t *testing.T) {
	e := NewEngine(Config{})
	e.finishSeconds = 0
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	defer e.Stop()
	client, served := pair(t)
	owner := newEcho()
	if err := e.Adopt(&owner.Conn, owner, served, frame(0x1, "x")); err != nil {
		t.Fatal(err)
	}
	wait(t, owner.ended, "OnGone")
	if code := owner.violation.Load(); code != int64(CloseTryLater) {
		t.Errorf("violation %d, want 1013", code)
	}
	_ = client.Close()
}

func TestNoFrameGivesAnUnfinishedMessageMoreTime(t *testing.T) {
	var p partials
	c := &Conn{}
	var h recorder
	step := func(now uint32, data []byte) {
		for len(data) > 0 {
			had := c.read.part
			data, _ = c.read.step(data, 1000, &h)
			p.account(c, had, now)
		}
	}
	step(1, message(500)[:5])
	step(2, message(500)[5:20])
	if _, _, began := p.oldest(); began != 1 {
		t.Errorf("began at %d, want 1, when its header did", began)
	}
	step(3, message(500)[20:])
	if _, c, _ := p.oldest(); c != nil || p.bytes.Load() != 0 {
		t.Fatalf("%d bytes are held after the message", p.bytes.Load())
	}
	step(6, frame(0x1, "x"))
	step(7, frame(fin|0x9, "Ping"))
	step(8, frame(fin|0x9, "Ping")[:8])
	if began := c.read.part.began; began != 6 {
		t.Errorf("began at %d, want 6", began)
	}
}

func TestUnfinishedMessagesAreBoundedTogetherAndTheOldestGoFirst(t *testing.T) {
	const size, most = 60_000, 1 << 20
	s := serve(t, Config{MaxUnfinished: most}, nil)
	var all []*echo
	for range 3 * most / size {
		conn := dialRaw(t, s.addr, nil)
		e := s.next(t)
		begin(t, conn, size)
		until(t, "all of it", func() bool { // held by its reader, or closed already
			e.turn.Lock()
			defer e.turn.Unlock()
			return e.read.part != nil && len(e.read.part.data) == size-1
		})
		until(t, "room", func() bool { return s.engine.Unfinished() <= most })
		all = append(all, e)
	}
	ended := 0
	for i, e := range all {
		if e.violation.Load() == 0 {
			break
		}
		if code := e.violation.Load(); code != int64(CloseTryLater) {
			t.Errorf("socket %d: violation %d, want 1013", i, code)
		}
		ended++
	}
	if ended < len(all)/2 || ended == len(all) {
		t.Errorf("the oldest %d of %d sockets were closed, want those beyond %d bytes", ended, len(all), most)
	}
	for i, e := range all[ended:] {
		if e.violation.Load() != 0 {
			t.Errorf("socket %d was closed, an older one not", ended+i)
		}
	}
	for _, e := range all {
		e.Cut()
	}
	until(t, "the end of all", func() bool { return s.engine.Unfinished() == 0 })
}

func TestTheAccountOfUnfinishedMessagesIsExact(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 7))
		var p partials
		conns := make([]*Conn, 5)
		streams := make([][]byte, len(conns))
		for i := range conns {
			conns[i] = &Conn{}
			for range 5 {
				streams[i] = append(streams[i], message(rng.IntN(300))...)
				streams[i] = append(streams[i], join(frame(0x2, "ab"), frame(fin|0x9, "Ping"), frame(fin, "cd"))...)
			}
		}
		var h recorder
		for now := uint32(1); ; now++ {
			i := rng.IntN(len(conns))
			n := min(len(streams[i]), 1+rng.IntN(40))
			for data := streams[i][:n]; len(data) > 0; {
				had := conns[i].read.part
				data, _ = conns[i].read.step(data, 1000, &h)
				p.account(conns[i], had, now)
			}
			streams[i] = streams[i][n:]
			held, want, left := 0, 0, 0
			for i, c := range conns {
				left += len(streams[i])
				if c.read.part != nil {
					want += c.read.part.size()
				}
			}
			before := uint32(0)
			for q := p.first; q != nil; q = q.next {
				if q.began < before || q.conn.read.part != q {
					t.Fatalf("seed %d: the list is out of order", seed)
				}
				before, held = q.began, held+q.counted
			}
			if held != want || int64(want) != p.bytes.Load() {
				t.Fatalf("seed %d: %d bytes are held, %d listed, %d counted", seed, want, held, p.bytes.Load())
			}
			if left == 0 {
				break
			}
		}
	}
}
