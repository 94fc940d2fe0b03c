package ws

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"canopy/shared/rawtls"
)

// dialRecords opens a socket whose client writes its own records.
func dialRecords(t *testing.T, s *server) (*rawtls.Conn, *echo) {
	t.Helper()
	c, err := rawtls.Dial(s.addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if status, err := c.Upgrade("/", nil); err != nil || status != http.StatusSwitchingProtocols {
		t.Fatalf("status %d, %v", status, err)
	}
	return c, s.next(t)
}

// flood sends until the server ends the connection, which it has to.
func flood(t *testing.T, c *rawtls.Conn, send func() error) {
	t.Helper()
	_ = c.TCP.SetWriteDeadline(time.Now().Add(patience))
	for {
		if err := send(); err != nil {
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				t.Error("the flood was not ended")
			}
			return
		}
	}
}

func TestRecordsThatGiveNothingCountAsFrames(t *testing.T) {
	for name, send := range map[string]func(c *rawtls.Conn) error{
		"KeyUpdates":       func(c *rawtls.Conn) error { return c.KeyUpdates(1000) },
		"empty ones":       func(c *rawtls.Conn) error { return c.Useless(1000, rawtls.Application, nil) },
		"canceled by user": func(c *rawtls.Conn) error { return c.Useless(1000, rawtls.Alert, []byte{1, 90}) },
		"crumbs of frames": func(c *rawtls.Conn) error { return c.Crumbs(1000) },
	} {
		t.Run(name, func(t *testing.T) {
			s := serveOver(t, true, Config{MaxFrames: 100}, nil)
			c, e := dialRecords(t, s)
			go func() { _, _ = io.Copy(io.Discard, c) }()
			flood(t, c, func() error { return send(c) })
			wait(t, e.ended, "OnGone")
			if code := e.violation.Load(); code != int64(ClosePolicy) {
				t.Errorf("violation %d, want 1008", code)
			}
		})
	}
}

func TestAClientThatMakesTLSAnswerAndDoesNotReadIsCut(t *testing.T) {
	const most = 64 << 10
	s := serveOver(t, true, Config{}, nil) // any number of frames
	c, e := dialRecords(t, s)
	over := make(chan int64, 1)
	go func() {
		held := int64(0)
		for e.gone.Load() == 0 {
			held = max(held, s.engine.Held())
			time.Sleep(time.Millisecond)
		}
		over <- held
	}()
	flood(t, c, func() error { return c.KeyUpdates(1000) })
	wait(t, e.ended, "OnGone")
	if why := e.unread.Load(); why != UnreadReplies {
		t.Errorf("cut because of %v, want %q", why, UnreadReplies)
	}
	if held := <-over; held > most {
		t.Errorf("%d bytes of answers were held, of %d", held, most)
	}
}

func TestAChangeOfKeysNowAndThenIsAnswered(t *testing.T) {
	s := serveOver(t, true, Config{MaxFrames: 100}, nil)
	c, e := dialRecords(t, s)
	for range 10 {
		if err := c.KeyUpdates(1); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(rawtls.Frame(2, []byte("x"))); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 3)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "\x82\x01x" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	if code := e.violation.Load(); code != 0 {
		t.Errorf("violation %d", code)
	}
}

func TestFramesWhosePartsAreRecordsCountAsFrames(t *testing.T) {
	const frames = 90
	s := serveOver(t, true, Config{MaxFrames: 100}, nil)
	c, e := dialRecords(t, s)
	go func() { _, _ = io.Copy(io.Discard, c) }()
	f := rawtls.Frame(2, make([]byte, 1000))
	var records []byte
	for range frames {
		for _, part := range [][]byte{f[:4], f[4:8], f[8:]} { // as some clients write them
			records = c.AppendRecord(records, rawtls.Application, part)
		}
	}
	if _, err := c.TCP.Write(records); err != nil {
		t.Fatal(err)
	}
	until(t, "every answer", func() bool { return e.taken.Load() == frames*1004 })
	if code := e.violation.Load(); code != 0 {
		t.Errorf("violation %d", code)
	}
}

func TestRecordsThatGiveNothingShowNoLife(t *testing.T) {
	s := serveOver(t, true, Config{}, nil)
	c, e := dialRecords(t, s)
	until(t, "the next second", func() bool { return s.engine.Now() > e.LastHeard() })
	before := e.LastHeard()
	records := c.AppendRecord(nil, rawtls.Application, nil)
	if _, err := c.TCP.Write(records); err != nil {
		t.Fatal(err)
	}
	until(t, "the record", func() bool {
		e.turn.Lock()
		defer e.turn.Unlock()
		return e.secure.counted == e.secure.records.whole && e.secure.records.had == 0 && e.secure.records.silent > 0
	})
	if now := e.LastHeard(); now != before {
		t.Errorf("heard at %d, was %d", now, before)
	}
}

func TestARequestInVeryManyRecordsEndsTheConnection(t *testing.T) {
	s := serveOver(t, true, Config{}, nil)
	c, err := rawtls.Dial(s.addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte("GET / HTTP/1.1\r\nX: ")); err != nil {
		t.Fatal(err)
	}
	flood(t, c, func() error { return c.Useless(100, rawtls.Application, nil) })
}

// stall writes to a client that does not read until at least n bytes wait in memory, or it is
// cut.
func stall(t *testing.T, s *server, e *echo, n int) {
	t.Helper()
	until(t, "bytes that wait", func() bool {
		list, _ := s.engine.holders.all(s.engine.time())
		for _, h := range list {
			if h.conn == &e.Conn && h.bytes >= int64(n) {
				return true
			}
		}
		if e.unread.Load() == nil {
			e.send(AppendFrame(nil, OpBinary, make([]byte, 64<<10)))
		}
		return e.unread.Load() != nil
	})
}

func TestWhoHoldsMemoryIsListedWhoeverWroteItAndOnlyThen(t *testing.T) {
	s := serve(t, Config{}, nil)
	reads := dialRaw(t, s.addr, nil)
	e := s.next(t)
	goes := dialRaw(t, s.addr, nil)
	f := s.next(t)
	if list, _ := s.engine.holders.all(0); len(list) > 0 {
		t.Fatalf("%d idle connections are listed", len(list))
	}
	stall(t, s, e, 1<<20)
	stall(t, s, f, 2<<20)
	sum, mine := int64(0), int64(0)
	list, _ := s.engine.holders.all(s.engine.time())
	for _, h := range list {
		sum += h.bytes
		if h.conn == &e.Conn {
			mine = h.bytes
		}
	}
	if held := s.engine.Held(); len(list) != 2 || mine == 0 || sum > held || sum < held*3/4 {
		t.Errorf("%d connections hold %d, one of them %d; %d are held", len(list), sum, mine, held)
	}
	_ = goes.Close()
	wait(t, f.ended, "OnGone")
	go func() { _, _ = io.Copy(io.Discard, reads) }()
	until(t, "all of it", func() bool { return e.taken.Load() == e.given.Load() })
	until(t, "nothing that is listed", func() bool {
		list, dying := s.engine.holders.all(0)
		return len(list) == 0 && dying == 0 && s.engine.Held() == 0
	})
}

func TestTheFirstBufferCountsToItsEnd(t *testing.T) {
	s := serve(t, Config{}, nil)
	_ = dialRaw(t, s.addr, nil)
	e := s.next(t)
	h := &holder{conn: &e.Conn}
	buffer := make([]byte, 100)
	h.took(buffer[:60], 340, false)
	if n := h.bytes.Load(); n != 400 {
		t.Errorf("%d bytes count of one buffer of 100 and 300 behind it", n)
	}
	h.took(buffer[60:99], 301, false)
	if n := h.bytes.Load(); n != 400 {
		t.Errorf("%d bytes count while one byte of the buffer is left", n)
	}
	h.took(buffer[99:], 300, false)
	if n := h.bytes.Load(); n != 300 {
		t.Errorf("%d bytes count behind it", n)
	}
}

func TestConnectionsThatDoNotReadAreCutUntilTheOthersAreWithinTheBound(t *testing.T) {
	const limit, sockets = 8 << 20, 40
	s := serve(t, Config{MaxHeld: limit}, nil)
	var all []*echo
	for range sockets {
		_ = dialRaw(t, s.addr, nil)
		f := s.next(t)
		stall(t, s, f, 1<<20)
		all = append(all, f)
	}
	until(t, "room", func() bool { return s.engine.Held() <= s.engine.mark() })
	cut := 0
	for _, f := range all {
		if f.unread.Load() != nil {
			cut++
			wait(t, f.ended, "OnGone")
		}
	}
	if cut < sockets/4 || cut == sockets {
		t.Errorf("%d of %d were cut", cut, sockets)
	}
}

func TestWhoHoldsMostForTheLongestTimeGoesFirst(t *testing.T) {
	kib := func(n int64, stuck time.Duration) holding { return holding{bytes: n << 10, stuck: stuck} }
	for _, c := range []struct {
		name        string
		first, then holding
	}{
		{"more bytes", kib(64, time.Second), kib(32, time.Second)},
		{"longer", kib(64, 2*time.Second), kib(64, time.Second)},
		{"a little that was never read", kib(8, time.Minute), kib(64, 50*time.Millisecond)},
		{"much that is read slowly", kib(1<<10, 300*time.Millisecond), kib(64, 7*time.Second)},
		{"what has just come, of which there is much", kib(64<<10, 0), kib(4, time.Minute)},
	} {
		if compareCost(c.first, c.then) <= 0 {
			t.Errorf("%s does not go first", c.name)
		}
	}
}

func TestWhoReadsALittleIsStuckLikeWhoReadsNothing(t *testing.T) {
	e := &Engine{began: time.Now().Add(-time.Hour)}
	c := &Conn{engine: e}
	const held, each = 1 << 20, 16 << 10
	for _, of := range []struct {
		name  string
		parts int // of each that are read, in the time of all
		left  int
		stuck bool
	}{
		{"a sixteenth is read", 4, held - 4*each, true},
		{"an eighth is read", 8, held - 8*each, false},
		{"an eighth is read, and as much comes", 8, held, false},
	} {
		h := &holder{}
		h.begin(c, of.left+of.parts*each)
		h.since.Store(0)
		for n := range of.parts {
			h.wrote(of.left + (of.parts-n)*each)
			h.took(make([]byte, each), of.left+(of.parts-n-1)*each, false)
		}
		h.took(make([]byte, 1), of.left-1, false)
		if stuck := h.since.Load() == 0; stuck != of.stuck {
			t.Errorf("%s: it is stuck: %t", of.name, stuck)
		}
	}
}

func TestWhoPausesForASecondIsNotCutInPlaceOfWhoHoards(t *testing.T) {
	e := &Engine{began: time.Now().Add(-5 * time.Second)}
	socket := func(bytes int, stuck time.Duration) *Conn {
		c := &Conn{engine: e}
		h := &holder{}
		h.begin(c, bytes)
		h.since.Store(int64(e.time() - stuck))
		return c
	}
	pausing := make(map[*Conn]bool)
	for n := range 200 {
		c := socket(1<<20, time.Duration(n)*20*time.Millisecond)
		for h := e.holders.first; h != nil; h = h.next { // it drains at tens of KiB/s
			if h.conn == c {
				h.took(make([]byte, 4<<10), 1<<20, false)
			}
		}
		pausing[socket(64<<10, 7*time.Second)] = true
	}
	for _, stuck := range []bool{true, false} {
		list, _ := e.holders.all(e.time())
		freed := int64(0)
		for _, h := range victims(list, 100<<20, stuck) {
			freed += h.bytes
			if pausing[h.conn] {
				t.Fatalf("only what is stuck: %t: one goes that holds 64 KiB and pauses", stuck)
			}
		}
		if freed < 100<<20 {
			t.Errorf("only what is stuck: %t: %d KiB are freed", stuck, freed>>10)
		}
	}
}

func TestPressureGivesSocketsTimeToDrainAndNeverLong(t *testing.T) {
	const limit = 1600
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	for _, c := range []struct {
		name    string
		pressed bool
		held    func(at int) int64 // after so many ms
		first   int                // ms until something must go
		stuck   bool               // only what is stuck
	}{
		{"nobody drains", false, func(int) int64 { return 1700 }, 100, false},
		{"they drain, but slowly", false, func(at int) int64 { return 4000 - int64(at)*2 }, 250, false},
		{"a writer waits below the limit", true, func(int) int64 { return 1300 }, 100, false},
		{"nobody waits yet", false, func(int) int64 { return 1300 }, 0, true},
	} {
		p := pressure{mark: 1200, limit: limit, looked: -time.Hour}
		at := 0
		for ; at < 1000; at += 5 {
			if excess, stuck := p.look(c.held(at), c.pressed, ms(at)); excess > 0 {
				if stuck != c.stuck {
					t.Errorf("%s: only what is stuck has to go: %t", c.name, stuck)
				}
				if want := c.held(at) - limit/2; !stuck && excess != want {
					t.Errorf("%s: %d bytes have to go, want %d", c.name, excess, want)
				}
				break
			}
		}
		if at != c.first {
			t.Errorf("%s: something has to go after %d ms, want %d", c.name, at, c.first)
		}
		if excess, _ := p.look(c.held(at), c.pressed, ms(at+1)); excess > 0 {
			t.Errorf("%s: more has to go before that was freed", c.name)
		}
	}
}

func TestSmallWritesBehindOthersMoveFewOfThem(t *testing.T) {
	var a heldAllocator
	b := a.Malloc(16)
	moved := 0
	for len(*b) < 60<<10 { // as nbio does
		n := len(*b)
		if cap(*b) < n+27 {
			grown := a.Malloc(n + 27)
			*grown = (*grown)[:n]
			moved += copy(*grown, *b)
			a.Free(b)
			b = grown
		}
		b = a.Append(b, bytes.Repeat([]byte("x"), 27)...)
	}
	if moved > 10<<20 { // 70 MiB if each write moved all
		t.Errorf("%d bytes were moved", moved)
	}
	a.Free(b)
	if n := a.bytes.Load(); n != 0 {
		t.Errorf("%d bytes are counted when all are free", n)
	}
}
