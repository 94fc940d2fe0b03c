//go:build linux

package drain

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// frame makes one frame as a server sends it.
func frame(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, payload...)
}

// fed is a fleet of one socket without a loop: the test writes to peer and calls read.
func fed(t *testing.T) (f *Fleet, peer int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	f = &Fleet{
		buf:     make([]byte, readBuffer),
		sockets: []socket{{fd: pair[0]}},
		seen:    Snapshot{Open: 1, Closes: map[int]uint64{}, Reasons: map[int]string{}},
	}
	t.Cleanup(func() {
		_ = unix.Close(pair[1])
		if f.sockets[0].fd >= 0 {
			_ = unix.Close(f.sockets[0].fd)
		}
	})
	return f, pair[1]
}

// feed writes b in pieces that cut chooses and reads each.
func feed(t *testing.T, f *Fleet, peer int, b []byte, cut func(left int) int) {
	t.Helper()
	for len(b) > 0 && f.sockets[0].fd >= 0 {
		n := cut(len(b))
		if _, err := unix.Write(peer, b[:n]); err != nil {
			t.Fatal(err)
		}
		f.read(&f.sockets[0])
		b = b[n:]
	}
}

func TestFramesAreTheSameHoweverTheyAreCut(t *testing.T) {
	big := append([]byte(eventJSON(3)), bytes.Repeat([]byte(" "), 300<<10)...)
	var stream []byte
	stream = append(stream, frame(textFrame, []byte(eventJSON(1)))...)
	stream = append(stream, frame(pingFrame, nil)...)
	stream = append(stream, frame(textFrame, append([]byte(eventJSON(2)), make([]byte, 500)...))...)
	stream = append(stream, frame(textFrame, big)...)
	stream = append(stream, frame(pingFrame, bytes.Repeat([]byte("p"), maxControl))...)
	stream = append(stream, frame(textFrame, []byte(eventJSON(4)))...)
	stream = append(stream, frame(closeFrame, []byte("\x03\xe9bye"))...)

	random := rand.New(rand.NewPCG(1, 2))
	for name, cut := range map[string]func(int) int{
		"large":  func(left int) int { return min(left, 64<<10) },
		"random": func(left int) int { return min(left, 1+random.IntN(1<<random.IntN(15))) },
		"small":  func(left int) int { return min(left, 97) },
	} {
		t.Run(name, func(t *testing.T) {
			f, peer := fed(t)
			feed(t, f, peer, stream, cut)
			s := f.seen
			if s.Events != 4 || s.Pings != 2 || s.Closes[1001] != 1 || s.Open != 0 || s.Fault() != nil {
				t.Errorf("events %d, pings %d, closes %v, open %d, fault %v", s.Events, s.Pings, s.Closes, s.Open, s.Fault())
			}
			if s.Bytes != uint64(len(stream)) {
				t.Errorf("%d bytes of %d", s.Bytes, len(stream))
			}
		})
	}
}

func TestEverySingleByteIsAnEndThatIsBorne(t *testing.T) {
	f, peer := fed(t)
	stream := append(frame(textFrame, append([]byte(eventJSON(1)), make([]byte, 300)...)), frame(textFrame, []byte(eventJSON(2)))...)
	feed(t, f, peer, stream, func(int) int { return 1 })
	if f.seen.Events != 2 || f.seen.Fault() != nil {
		t.Errorf("events %d, fault %v", f.seen.Events, f.seen.Fault())
	}
}

func TestWhatAServerMustNotSendEndsTheSocket(t *testing.T) {
	for name, bad := range map[string][]byte{
		"reserved bit":          {0xc1, 0x01, 'x'},
		"masked":                {0x81, 0x81, 1, 2, 3, 4, 'x'},
		"binary":                {0x82, 0x01, 'x'},
		"fragment":              {0x01, 0x01, 'x'},
		"lone continuation":     {0x80, 0x01, 'x'},
		"reserved opcode":       {0x83, 0x00},
		"reserved control":      {0x8b, 0x00},
		"fragmented ping":       {0x09, 0x00},
		"oversize ping":         frame(pingFrame, make([]byte, maxControl+1)),
		"close with one byte":   {0x88, 0x01, 3},
		"length with a top bit": {0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 1},
		"event behind a close":  append(frame(closeFrame, nil), frame(textFrame, []byte("x"))...),
	} {
		t.Run(name, func(t *testing.T) {
			f, peer := fed(t)
			feed(t, f, peer, append(frame(textFrame, []byte(eventJSON(1))), bad...), func(left int) int { return left })
			if f.seen.Malformed != 1 || f.seen.Events != 1 || f.seen.Open != 0 || f.seen.Fault() == nil || f.sockets[0].fd >= 0 {
				t.Errorf("malformed %d, events %d, open %d, fault %v", f.seen.Malformed, f.seen.Events, f.seen.Open, f.seen.Fault())
			}
		})
	}
}

func TestAPongIsMaskedAndCarriesThePingsPayload(t *testing.T) {
	f, peer := fed(t)
	feed(t, f, peer, frame(pingFrame, []byte("hello")), func(left int) int { return left })
	b := make([]byte, 64)
	n, err := unix.Read(peer, b)
	if err != nil || n != 2+4+5 || b[0] != pongFrame || b[1] != 0x80|5 {
		t.Fatalf("read % x: %v", b[:max(n, 0)], err)
	}
	for i := range 5 {
		b[6+i] ^= b[2+i%4]
	}
	if string(b[6:11]) != "hello" {
		t.Errorf("payload %q", b[6:11])
	}
}

func TestEventsAreReadWithoutAllocation(t *testing.T) {
	f, peer := fed(t)
	const runs = 100
	var frames [][]byte
	for n := range runs + 2 {
		frames = append(frames, frame(textFrame, []byte(eventJSON(n+1))))
	}
	allocations := testing.AllocsPerRun(runs, func() {
		b := frames[f.seen.Events]
		if _, err := unix.Write(peer, b); err != nil {
			t.Fatal(err)
		}
		f.read(&f.sockets[0])
	})
	if allocations > 0 || f.seen.Events != runs+1 {
		t.Errorf("%v allocations per event, %d events", allocations, f.seen.Events)
	}
}

func TestAHistogramSurvivesItsWayThroughJSON(t *testing.T) {
	var h, back Histogram
	for d := time.Duration(1); d < 100*time.Hour; d = d*5/4 + 1 {
		h.Record(d)
	}
	b, err := h.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if err := back.UnmarshalJSON(b); err != nil || !reflect.DeepEqual(h, back) {
		t.Errorf("%v: %s", err, b)
	}
}

func TestQuantilesErrByAtMostOneInThirtyTwo(t *testing.T) {
	var h Histogram
	if h.Quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
	const n = 100000
	for i := 1; i <= n; i++ {
		h.Record(time.Duration(i) * time.Microsecond)
	}
	h.Record(-time.Second)
	for _, q := range []float64{0.01, 0.5, 0.99, 1} {
		exact := time.Duration(q*n) * time.Microsecond
		if got := h.Quantile(q); got < exact-time.Microsecond || got > exact+exact/32+time.Microsecond {
			t.Errorf("quantile %v is %v, exactly %v", q, got, exact)
		}
	}
	if h.Max() != n*time.Microsecond || h.Count() != n+1 {
		t.Errorf("max %v, count %d", h.Max(), h.Count())
	}
}
