//go:build linux

package e2e

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

const upgradeHeaders = "Host: canopy\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
	"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"

// raw is a connection to the edge without a client library.
type raw struct {
	net.Conn
	t  *testing.T
	in *bufio.Reader
}

// call connects to the edge.
func (w *world) call() *raw {
	w.t.Helper()
	conn, err := net.DialTimeout("tcp", w.edge.HTTP, patience)
	if err != nil {
		w.t.Fatalf("connect: %v", err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		w.t.Fatal(err)
	}
	return &raw{conn, w.t, bufio.NewReader(conn)}
}

// shout sends a request as it is, and gives the answer's status and body.
func (w *world) shout(request string) string {
	w.t.Helper()
	c := w.call()
	c.send(request)
	return c.answer()
}

func (c *raw) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatalf("send: %v", err)
	}
}

// answer reads the answer to a request: the status, and the body unless it is 101.
func (c *raw) answer() string {
	c.t.Helper()
	response, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatalf("read the answer: %v", err)
	}
	if response.StatusCode == http.StatusSwitchingProtocols {
		return "101"
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatalf("read the answer: %v", err)
	}
	return fmt.Sprintf("%d %s", response.StatusCode, strings.TrimSpace(string(body)))
}

// shake opens a socket and sends early in the same packet as the request.
func (w *world) shake(path, early string) *raw {
	w.t.Helper()
	c := w.call()
	c.send("GET " + path + " HTTP/1.1\r\n" + upgradeHeaders + "\r\n" + early)
	if got := c.answer(); got != "101" {
		w.t.Fatalf("open %s: %s", path, got)
	}
	return c
}

// frame reads the next frame that is no event.
func (c *raw) frame() (opcode byte, payload string) {
	c.t.Helper()
	for {
		var head [2]byte
		if _, err := io.ReadFull(c.in, head[:]); err != nil {
			c.t.Fatalf("read a frame: %v", err)
		}
		size := uint64(head[1])
		var long [8]byte
		switch {
		case size == 126:
			c.fill(long[6:])
			size = binary.BigEndian.Uint64(long[:])
		case size == 127:
			c.fill(long[:])
			size = binary.BigEndian.Uint64(long[:])
		}
		body := make([]byte, size)
		c.fill(body)
		if head[0] != 0x81 {
			return head[0] &^ 0x80, string(body)
		}
	}
}

func (c *raw) fill(b []byte) {
	c.t.Helper()
	if _, err := io.ReadFull(c.in, b); err != nil {
		c.t.Fatalf("read a frame: %v", err)
	}
}

// closing reads the close frame, answers it, and reads the end behind it.
func (c *raw) closing() (code uint16, reason string) {
	c.t.Helper()
	opcode, payload := c.frame()
	if opcode != 8 || len(payload) < 2 {
		c.t.Fatalf("got a frame of opcode %d, %q, want a close frame", opcode, payload)
	}
	_, _ = io.WriteString(c, masked(0x88, payload)) // the edge may have hung up already
	if rest, err := io.ReadAll(c.in); len(rest) > 0 || err != nil && !isReset(err) {
		c.t.Errorf("behind the close frame came %d bytes, %v", len(rest), err)
	}
	return binary.BigEndian.Uint16([]byte(payload)), payload[2:]
}

// isReset says whether the edge ended a connection on which the client was still sending.
func isReset(err error) bool {
	var e *net.OpError
	return errors.As(err, &e) && !e.Timeout()
}

// masked is a client's frame with a mask of zeros, which leaves the payload readable.
func masked(first byte, payload string) string {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return string(b) + "\x00\x00\x00\x00" + payload
}
