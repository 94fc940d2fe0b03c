//go:build linux

package drain

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	acceptGUID   = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" // RFC 6455, 1.3
	maxAnswer    = 32 << 10
	pollInterval = 100 // milliseconds after which a waiting handshake looks at its context
	sources      = 8
)

// RefusedError is a server's answer other than 101.
type RefusedError struct {
	Status int
	Header http.Header
	Body   string // at most 32 KiB of it
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("handshake refused: status %d: %.200s", e.Status, e.Body)
}

// target is what all handshakes of a fleet have in common. It does not change.
type target struct {
	cfg     Config
	addr    unix.SockaddrInet4
	request []byte
	accept  []byte
}

func newTarget(cfg Config) (*target, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("parse URL: %w", err)
	}
	if u.Scheme != "ws" {
		return nil, fmt.Errorf("open %s: only ws:// can be drained", cfg.URL)
	}
	if cfg.Sockets < 1 {
		return nil, fmt.Errorf("open %s: %d sockets asked for", cfg.URL, cfg.Sockets)
	}
	if len(cfg.Tokens) > 0 && len(cfg.Tokens) != cfg.Sockets {
		return nil, fmt.Errorf("open %s: %d tokens for %d sockets", cfg.URL, len(cfg.Tokens), cfg.Sockets)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "80")
	}
	addr, err := net.ResolveTCPAddr("tcp4", host)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", u.Host, err)
	}
	t := &target{cfg: cfg, addr: unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}}
	if t.cfg.HandshakeTimeout <= 0 {
		t.cfg.HandshakeTimeout = 30 * time.Second
	}
	// One key for all sockets: the server's work is the same, and ours is done once.
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails
	key := base64.StdEncoding.EncodeToString(nonce[:])
	sum := sha1.Sum([]byte(key + acceptGUID))
	t.accept = []byte(base64.StdEncoding.EncodeToString(sum[:]))
	path := strings.Replace(u.RequestURI(), "%7Bn%7D", "{n}", 1) // as it is written in a path
	var b bytes.Buffer
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", path, u.Host, key)
	if err := cfg.Header.Write(&b); err != nil {
		return nil, fmt.Errorf("write header: %w", err)
	}
	t.request = b.Bytes()
	return t, nil
}

// requestOf is what socket i sends to be opened.
func (t *target) requestOf(i int) []byte {
	n := t.cfg.Number + i
	if t.cfg.Modulo > 0 {
		n %= t.cfg.Modulo
	}
	request := bytes.Replace(t.request, []byte("{n}"), strconv.AppendInt(nil, int64(n), 10), 1)
	if len(t.cfg.Tokens) > 0 {
		request = append(append(request, "Authorization: Bearer "...), t.cfg.Tokens[i]...)
		request = append(request, "\r\n"...)
	}
	return append(request, "\r\n"...)
}

// open connects socket i and shakes hands. early is what came behind the answer.
func (t *target) open(ctx context.Context, i int) (fd int, early []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.HandshakeTimeout)
	defer cancel()
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, nil, fmt.Errorf("create socket: %w", err)
	}
	if err = t.connect(ctx, fd, i); err == nil {
		early, err = t.shakeHands(ctx, fd, i)
	}
	if err != nil {
		return -1, nil, errors.Join(err, unix.Close(fd))
	}
	return fd, early, nil
}

func (t *target) connect(ctx context.Context, fd, i int) error {
	if t.cfg.ReceiveBuffer > 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, t.cfg.ReceiveBuffer); err != nil {
			return fmt.Errorf("set receive buffer: %w", err)
		}
	}
	if err := t.bind(fd, i); err != nil {
		return err
	}
	to := t.addr // a copy, because Connect writes into it
	err := unix.Connect(fd, &to)
	if errors.Is(err, unix.EINPROGRESS) {
		if err = pollFor(ctx, fd, unix.POLLOUT); err != nil {
			return err
		}
		var code int
		if code, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); code != 0 {
			err = unix.Errno(code)
		}
	}
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

func (t *target) bind(fd, i int) error {
	var from unix.SockaddrInet4
	switch {
	case t.cfg.Source != "":
		ip := net.ParseIP(t.cfg.Source).To4()
		if ip == nil {
			return fmt.Errorf("bind: source %q is no IPv4 address", t.cfg.Source)
		}
		from.Addr = [4]byte(ip)
	case t.addr.Addr[0] == 127:
		// Each process has addresses of its own, so that two never fight for a port.
		from.Addr = [4]byte{127, 0, byte(1 + os.Getpid()%250), byte(1 + i%sources)}
	default:
		return nil
	}
	// The port is chosen at connect, or one address could not use it for two servers.
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return fmt.Errorf("set late port choice: %w", err)
	}
	if err := unix.Bind(fd, &from); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

func (t *target) shakeHands(ctx context.Context, fd, i int) (early []byte, err error) {
	request := t.requestOf(i)
	n, err := unix.Write(fd, request)
	if err == nil && n < len(request) {
		err = io.ErrShortWrite // a new socket takes far more than any sensible header
	}
	if err != nil {
		return nil, fmt.Errorf("write handshake: %w", err)
	}
	var answer []byte
	for {
		answer = append(answer, make([]byte, 1<<10)...)
		free := answer[len(answer)-1<<10:]
		n, err := fdReader{ctx, fd}.Read(free)
		if err != nil {
			return nil, fmt.Errorf("read handshake: %w", err)
		}
		answer = answer[:len(answer)-len(free)+n]
		end := bytes.Index(answer, []byte("\r\n\r\n"))
		if end < 0 {
			if len(answer) > maxAnswer {
				return nil, errors.New("read handshake: answer is too long")
			}
			continue
		}
		if !bytes.HasPrefix(answer, []byte("HTTP/1.1 101 ")) {
			return nil, refusal(io.MultiReader(bytes.NewReader(answer), fdReader{ctx, fd}))
		}
		if !bytes.Contains(answer[:end], t.accept) {
			return nil, errors.New("read handshake: Sec-WebSocket-Accept is not the answer to our key")
		}
		return answer[end+4:], nil
	}
}

func refusal(r io.Reader) error {
	answer, err := http.ReadResponse(bufio.NewReader(r), nil)
	if err != nil {
		return fmt.Errorf("read refusal: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read refusal with status %d: %w", answer.StatusCode, err)
	}
	return &RefusedError{answer.StatusCode, answer.Header, string(body)}
}

// fdReader reads a non-blocking descriptor and waits for bytes as long as ctx lasts.
type fdReader struct {
	ctx context.Context
	fd  int
}

func (r fdReader) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(r.fd, b)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			if err := pollFor(r.ctx, r.fd, unix.POLLIN); err != nil {
				return 0, err
			}
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// pollFor waits until fd is ready for events, or ctx ends.
func pollFor(ctx context.Context, fd int, events int16) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, pollInterval)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll: %w", err)
		}
		if n > 0 {
			return nil
		}
	}
}
