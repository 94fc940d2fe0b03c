//go:build linux

// Package floor is the least that a server can do with the same sockets: it accepts
// them, answers the WebSocket handshake, and calls write once for every event and
// socket, with a frame that was made before. Canopy is measured beside it.
package floor

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"canopy/bench/load"
	"canopy/shared/event"
)

const (
	acceptors  = 8
	backlog    = 4096
	maxRequest = 8 << 10
	patience   = 30 // seconds that a handshake or a full socket may take
	sendBuffer = 64 << 10
)

// Server is a bare server on a free port of 127.0.0.1. Send is for one goroutine.
type Server struct {
	listener int
	addr     string
	done     sync.WaitGroup
	full     atomic.Uint64 // times that a socket was full since the start

	mu      sync.Mutex
	sockets []int
	failed  error // the first handshake that failed
	closing bool
}

// Sent says what one Send did.
type Sent struct {
	Writes uint64 `json:"writes"` // calls of write
	Bytes  uint64 `json:"bytes"`
	Waits  uint64 `json:"waits"` // times that a socket was full and had to be waited for
}

// Listen starts a server that accepts until Close.
func Listen() (*Server, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("create listener: %w", err)
	}
	s := &Server{listener: fd}
	if s.addr, err = listen(fd); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	for range acceptors {
		s.done.Go(s.accept)
	}
	return s, nil
}

func listen(fd int) (addr string, err error) {
	// Accepted sockets inherit both: the same buffer as Canopy's, so that the kernel does
	// the same work, and no delay.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer); err != nil {
		return "", fmt.Errorf("set send buffer: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return "", fmt.Errorf("set no delay: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return "", fmt.Errorf("bind listener: %w", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return "", fmt.Errorf("listen: %w", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return "", fmt.Errorf("read listener's address: %w", err)
	}
	v4, ok := name.(*unix.SockaddrInet4)
	if !ok {
		return "", fmt.Errorf("read listener's address: it is a %T", name)
	}
	return (&net.TCPAddr{IP: v4.Addr[:], Port: v4.Port}).String(), nil
}

// URL is where sockets are opened; any path will do.
func (s *Server) URL() string { return "ws://" + s.addr + "/app" }

// Sockets is the number of sockets that have been opened, or the error of one that
// failed.
func (s *Server) Sockets() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sockets), s.failed
}

func (s *Server) accept() {
	for {
		fd, _, err := unix.Accept4(s.listener, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
			continue
		}
		if err == nil {
			err = s.open(fd)
		}
		s.mu.Lock()
		if !s.closing && s.failed == nil {
			s.failed = err
		}
		end := s.closing || err != nil
		s.mu.Unlock()
		if end {
			return
		}
	}
}

// open shakes hands and keeps fd.
func (s *Server) open(fd int) error {
	err := shakeHands(fd)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("shake hands: %w", err), unix.Close(fd))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sockets = append(s.sockets, fd)
	return nil
}

func shakeHands(fd int) error {
	limit := unix.Timeval{Sec: patience}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err
	}
	var request []byte
	part := make([]byte, maxRequest)
	for !bytes.HasSuffix(request, []byte("\r\n\r\n")) {
		n, err := unix.Read(fd, part)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0 || len(request)+n > maxRequest:
			return fmt.Errorf("request of %d bytes has no end", len(request)+n)
		}
		request = append(request, part[:n]...)
	}
	_, rest, ok := bytes.Cut(request, []byte("Sec-WebSocket-Key: "))
	if !ok {
		return errors.New("request has no Sec-WebSocket-Key")
	}
	key, _, _ := bytes.Cut(rest, []byte("\r\n"))
	sum := sha1.Sum(append(key[:len(key):len(key)], "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...)) // RFC 6455, 1.3
	answer := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n"
	n, err := unix.Write(fd, []byte(answer))
	if err == nil && n < len(answer) {
		err = errors.New("answer was cut")
	}
	return err
}

// Send makes events events, the first with counter first, of size bytes plus Canopy's
// cursor, and writes each to every socket. threads goroutines share the sockets.
func (s *Server) Send(first uint64, events, size, threads int) (Sent, error) {
	if err := load.CheckSize(size); err != nil {
		return Sent{}, err
	}
	frames := make([][]byte, events)
	for i := range frames {
		frames[i] = frame(first+uint64(i), size)
	}
	s.mu.Lock()
	sockets := s.sockets
	s.mu.Unlock()
	sent := make([]Sent, threads)
	var group errgroup.Group
	for i := range threads {
		share := sockets[len(sockets)*i/threads : len(sockets)*(i+1)/threads]
		group.Go(func() (err error) {
			sent[i], err = s.writeAll(share, frames)
			return err
		})
	}
	err := group.Wait()
	var all Sent
	for _, part := range sent {
		all.Writes += part.Writes
		all.Bytes += part.Bytes
		all.Waits += part.Waits
	}
	return all, err
}

// frame is one event as it goes over the wire, as long as Canopy's.
func frame(n uint64, size int) []byte {
	body := event.AppendCursor(nil, load.AppendEvent(nil, n, time.Now().UnixNano(), size), event.Cursor{Sequence: n})
	const text, long, longer = 0x81, 126, 1 << 16 // RFC 6455, 5.2
	var b []byte
	switch {
	case len(body) < long:
		b = append(b, text, byte(len(body)))
	case len(body) < longer:
		b = append(b, text, long, byte(len(body)>>8), byte(len(body)))
	default:
		b = append(b, text, long+1, 0, 0, 0, 0, byte(len(body)>>24), byte(len(body)>>16), byte(len(body)>>8), byte(len(body)))
	}
	return append(b, body...)
}

// writeAll is the loop that everything else is compared to.
func (s *Server) writeAll(sockets []int, frames [][]byte) (sent Sent, err error) {
	for _, frame := range frames {
		for _, fd := range sockets {
			for rest := frame; len(rest) > 0; {
				n, err := write(fd, rest)
				sent.Writes++
				switch {
				case err == nil:
					sent.Bytes += uint64(n)
					rest = rest[n:]
				case errors.Is(err, unix.EAGAIN):
					sent.Waits++
					s.full.Add(1)
					if err := waitFor(fd); err != nil {
						return sent, err
					}
				case !errors.Is(err, unix.EINTR):
					return sent, fmt.Errorf("write: %w", err)
				}
			}
		}
	}
	return sent, nil
}

// write is write(2) without a word to Go's scheduler, which would cost something that no
// server has to pay. fd is non-blocking, and b not empty.
func write(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

func waitFor(fd int) error {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, patience*1000)
	if n == 0 && err == nil {
		return fmt.Errorf("write: a socket was full for %d s", patience)
	}
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("poll: %w", err)
	}
	return nil
}

// Close ends all sockets and returns when nothing accepts any more.
func (s *Server) Close() {
	s.mu.Lock()
	s.closing = true
	sockets := s.sockets
	s.sockets = nil
	s.mu.Unlock()
	_ = unix.Shutdown(s.listener, unix.SHUT_RDWR) // wakes accept
	s.done.Wait()
	_ = unix.Close(s.listener)
	for _, fd := range sockets {
		_ = unix.Close(fd)
	}
}
