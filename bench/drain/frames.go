//go:build linux

package drain

import (
	"bytes"
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// First bytes of the frames that a server may send: FIN and the opcode. A fragmented
// message is as wrong here as a reserved bit: Canopy promises one frame per event.
const (
	textFrame  = 0x81
	closeFrame = 0x88
	pingFrame  = 0x89
	pongFrame  = 0x8a
)

var (
	numberKey = []byte(`"data":{"n":`)
	timeKey   = []byte(`,"at":`)
)

// frame handles one whole frame that was read at now.
func (f *Fleet) frame(s *socket, first byte, payload []byte, now time.Time) {
	control := first&0x08 != 0
	switch {
	case s.closed, control && len(payload) > maxControl:
		f.malformed(s)
	case first == textFrame:
		f.event(s, payload, now)
	case first == pingFrame:
		f.seen.Pings++
		if !s.pinged {
			s.pinged = true
			f.seen.Pinged++
		}
		if !sendControl(s.fd, pongFrame, payload) {
			f.seen.LostPongs++
		}
	case first == closeFrame:
		f.closing(s, payload)
	case first != pongFrame:
		f.malformed(s)
	}
}

// event counts one text message and checks its number.
func (f *Fleet) event(s *socket, payload []byte, now time.Time) {
	n, rest := f.numbers.Read(payload)
	switch {
	case rest == nil:
		f.seen.Others++
		return
	case n == 0:
		f.seen.BadNumber++
		return
	}
	f.seen.Events++
	if f.seen.First.IsZero() {
		f.seen.First = now
	}
	f.seen.Last = now
	if s.first == 0 {
		s.first = n
	}
	if !f.check(s, n) && len(f.seen.Wrong) < maxWrong {
		f.seen.Wrong = append(f.seen.Wrong, string(payload))
	}
	if !bytes.HasPrefix(rest, timeKey) {
		return
	}
	at, _ := number(rest[len(timeKey):])
	if at == 0 {
		f.seen.BadNumber++
		return
	}
	f.seen.Latency.Record(time.Duration(now.UnixNano() - int64(at)))
}

// check counts what is wrong with event n as the next one of s, and says whether it is right.
func (f *Fleet) check(s *socket, n uint64) bool {
	before := f.seen.Holes + f.seen.Repeats + f.seen.Reorders
	switch all := f.cfg.Sequences; {
	case f.cfg.Shared:
		s.seq.share(n, f.seen.Numbers, &f.seen)
	case all > 1 && n%all > 0:
		s.more[n%all-1].see(n/all, &f.seen)
	case all > 1:
		s.seq.see(n/all, &f.seen)
	default:
		s.seq.see(n, &f.seen)
	}
	return f.seen.Holes+f.seen.Repeats+f.seen.Reorders == before
}

// Counter reads events' counters. It is for one goroutine.
type Counter struct{ hint int } // where the counter stood in the event before

// Read gives the counter of an event in JSON, 0 if it cannot be read, and what stands
// behind it, nil if there is no counter.
func (c *Counter) Read(payload []byte) (n uint64, rest []byte) {
	i := c.hint // events of one run look alike
	if i+len(numberKey) > len(payload) || !bytes.Equal(payload[i:i+len(numberKey)], numberKey) {
		if i = bytes.Index(payload, numberKey); i < 0 {
			return 0, nil
		}
		c.hint = i
	}
	return number(payload[i+len(numberKey):])
}

// number reads the decimal digits that b begins with; 0 if there are none.
func number(b []byte) (n uint64, rest []byte) {
	for i, c := range b {
		if c < '0' || c > '9' {
			return n, b[i:]
		}
		n = 10*n + uint64(c-'0')
	}
	return n, b[len(b):]
}

// closing counts the server's close frame and answers it. The connection stays until
// the server ends it, as RFC 6455, 7.1.1 asks.
func (f *Fleet) closing(s *socket, payload []byte) {
	code, reason := NoCode, ""
	switch {
	case len(payload) == 1:
		f.malformed(s)
		return
	case len(payload) >= 2:
		code, reason = int(binary.BigEndian.Uint16(payload)), string(payload[2:])
	}
	f.countClose(code, reason)
	s.closed = true
	_ = sendControl(s.fd, closeFrame, payload[:min(len(payload), 2)]) // the server may be gone already
}

// sendControl writes one masked control frame. It is false if the kernel did not take
// all of it, which happens only if the server does not read.
func sendControl(fd int, first byte, payload []byte) bool {
	mask := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	var frame [2 + len(mask) + maxControl]byte
	frame[0], frame[1] = first, 0x80|byte(len(payload))
	copy(frame[2:], mask[:])
	for i, c := range payload {
		frame[2+len(mask)+i] = c ^ mask[i%len(mask)]
	}
	size := 2 + len(mask) + len(payload)
	n, err := unix.Write(fd, frame[:size])
	return err == nil && n == size
}
