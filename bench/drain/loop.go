//go:build linux

package drain

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

const (
	wakeIndex  = -1
	readyBatch = 128 // sockets per epoll_wait, so that Snapshot waits for no more than these
	readBuffer = 256 << 10
	maxMessage = 16 << 20
	maxControl = 125
)

// run reads until Close; then it ends every socket.
func (f *Fleet) run() {
	defer close(f.done)
	events := make([]unix.EpollEvent, readyBatch)
	for {
		n, err := unix.EpollWait(f.epoll, events, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || !f.readAll(events[:max(n, 0)]) {
			break
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.sockets {
		if s := &f.sockets[i]; s.fd >= 0 {
			_ = unix.Close(s.fd)
			s.fd, s.stalled = -1, false
		}
	}
	f.seen.Open, f.seen.Stalled = 0, 0
	_ = unix.Close(f.epoll)
	_ = unix.Close(f.wake)
}

// readAll reads each ready socket once. It is false if the fleet shall end.
func (f *Fleet) readAll(events []unix.EpollEvent) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range events {
		if e.Fd == wakeIndex {
			return false
		}
		// Another event of this batch, or Stall, may have come first.
		if s := &f.sockets[e.Fd]; s.fd >= 0 && !s.stalled {
			f.read(s)
		}
	}
	return true
}

// read reads once from s, behind the beginning of a frame that came before, and takes
// the frames. Epoll is level-triggered: what is left makes s ready again.
func (f *Fleet) read(s *socket) {
	kept := copy(f.buf, s.rest)
	n, err := unix.Read(s.fd, f.buf[kept:])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return
	case err != nil || n == 0:
		f.end(s, CutOff, "")
		return
	}
	if s.rest != nil {
		f.spare = append(f.spare, s.rest[:0])
		s.rest = nil
	}
	f.seen.Reads++
	f.takeFrames(s, f.buf[:kept+n], n)
}

// take is for bytes that were read elsewhere.
func (f *Fleet) take(s *socket, b []byte) { f.takeFrames(s, b, len(b)) }

// takeFrames takes every whole frame of b, of which the last fresh bytes are new, and
// keeps the beginning of the next one.
func (f *Fleet) takeFrames(s *socket, b []byte, fresh int) {
	f.seen.Bytes += uint64(fresh)
	now := time.Now()
	for s.fd >= 0 {
		head, size := frameSize(b)
		if size < 0 {
			f.malformed(s)
			return
		}
		if head == 0 || len(b) < head+size {
			break
		}
		f.frame(s, b[0], b[head:head+size], now)
		b = b[head+size:]
	}
	if s.fd < 0 || len(b) == 0 {
		return
	}
	f.keep(s, b)
}

// keep copies b, the beginning of a frame, out of the buffer that all sockets share.
func (f *Fleet) keep(s *socket, b []byte) {
	var rest []byte
	if last := len(f.spare) - 1; last >= 0 {
		rest, f.spare = f.spare[last], f.spare[:last]
	}
	s.rest = append(rest, b...)
	if head, size := frameSize(b); head+size > len(f.buf)-readBuffer/2 {
		f.buf = make([]byte, head+size+readBuffer)
	}
}

// frameSize gives the length in bytes of the header and of the payload of the frame
// that b begins with. head is 0 if b ends inside the header; size is -1 if a server must
// not send such a header.
func frameSize(b []byte) (head, size int) {
	if len(b) < 2 {
		return 0, 0
	}
	if masked := b[1]&0x80 != 0; masked || b[0]&0x70 != 0 {
		return 0, -1
	}
	size = int(b[1])
	switch {
	case size == 126 && len(b) >= 4:
		return 4, int(binary.BigEndian.Uint16(b[2:]))
	case size == 127 && len(b) >= 10:
		n := binary.BigEndian.Uint64(b[2:])
		if n > maxMessage {
			return 0, -1
		}
		return 10, int(n)
	case size >= 126:
		return 0, 0
	}
	return 2, size
}

// end closes s and counts it under code, unless a close frame has counted it before.
func (f *Fleet) end(s *socket, code int, reason string) {
	if !s.closed {
		f.countClose(code, reason)
	}
	s.closed = true
	_ = unix.Close(s.fd) // nothing is left to be written that an error could concern
	s.fd, s.rest = -1, nil
	s.forget()
}

func (f *Fleet) countClose(code int, reason string) {
	f.seen.Open--
	f.seen.Closes[code]++
	f.seen.Reasons[code] = reason
}

func (f *Fleet) malformed(s *socket) {
	f.seen.Malformed++
	f.end(s, CutOff, "")
}
