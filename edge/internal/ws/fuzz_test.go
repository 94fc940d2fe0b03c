package ws

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

func FuzzReaderHearsTheSameHoweverTheBytesCome(f *testing.F) {
	for _, c := range rules {
		f.Add(c.bytes, uint64(1))
	}
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		want, _ := readAll(1000, data)
		got, held := readAll(1000, pieces(data, rand.New(rand.NewPCG(seed, 0)))...)
		if !slices.Equal(got, want) {
			t.Fatalf("whole: %q, in pieces: %q", want, got)
		}
		if held != nil && cap(held.data) > 2*len(data)+64 {
			t.Fatalf("%d bytes for %d received", cap(held.data), len(data))
		}
	})
}

// FuzzReaderAgreesWithCoder gives the same bytes to coder/websocket and compares what its
// server makes of them. It does not check UTF-8, and ends some violations without a close
// frame: there ours says more.
func FuzzReaderAgreesWithCoder(f *testing.F) {
	for _, c := range rules {
		f.Add(c.bytes)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		// Not a frame, so that both see the end of the last header.
		data = append(bytes.Clone(data), make([]byte, 16)...)
		var h recorder
		h.read(1000, data)
		ours, coders := h.heard, coderReads(t, data)
		for i, event := range ours {
			if event == "violation 1007" || h.why == longControl.reason {
				return // coder reads on; it takes control frames whose length is not minimal
			}
			if i >= len(coders) || !agree(event, coders[i]) {
				t.Fatalf("event %d: ours %q, coder's %q", i, ours, coders)
			}
		}
		if rest := coders[len(ours):]; len(rest) > 0 && rest[0] != "end" {
			t.Fatalf("ours %q, coder's %q", ours, coders)
		}
	})
}

// agree compares one event. Ours refuses a big message when it is announced, coder when it
// has come; some violations end coder's connection without a close frame.
func agree(ours, coders string) bool {
	switch ours {
	case "violation 1009":
		return coders == ours || coders == "end" || coders == "error"
	case "violation 1002":
		return coders == ours || coders == "error"
	default:
		return coders == ours
	}
}

// coderReads returns what a coder/websocket server hears from a client that sends input
// and then ends, in the words of recorder.
func coderReads(t *testing.T, input []byte) []string {
	conn := &memoryConn{in: bytes.NewReader(input)}
	request := httptest.NewRequest(http.MethodGet, "/", nil)
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "websocket")
	request.Header.Set("Sec-WebSocket-Version", "13")
	request.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	var heard recorder
	c, err := websocket.Accept(&hijacked{httptest.NewRecorder(), conn}, request, &websocket.AcceptOptions{
		OnPingReceived: func(_ context.Context, payload []byte) bool { heard.OnPing(payload); return false },
		OnPongReceived: func(_ context.Context, payload []byte) { heard.OnPong(payload) },
	})
	if err != nil {
		t.Fatalf("accept: %v", err)
	}
	defer func() { _ = c.CloseNow() }()
	c.SetReadLimit(1000)
	for {
		kind, payload, err := c.Read(context.Background())
		if err == nil {
			heard.OnMessage(kind == websocket.MessageText, payload)
			continue
		}
		return append(heard.heard, ending(err, conn.out.Bytes()))
	}
}

// ending says how coder's connection ended: by the peer's close frame, a violation with
// the code that it sent, the end of the input, or an error without a close frame.
func ending(err error, sent []byte) string {
	var closed websocket.CloseError
	if ok := errors.As(err, &closed); ok {
		return fmt.Sprintf("close %d %s", closed.Code, closed.Reason)
	}
	if len(sent) >= 4 && sent[0] == fin|byte(OpClose) {
		return fmt.Sprintf("violation %d", binary.BigEndian.Uint16(sent[2:]))
	}
	if strings.Contains(err.Error(), "EOF") {
		return "end"
	}
	return "error"
}

// memoryConn is a connection whose peer has sent everything already.
type memoryConn struct {
	in        *bytes.Reader
	out       bytes.Buffer
	deadline  time.Time
	writtenBy time.Time // the deadline at the last write
}

// Read ends with an unexpected end: coder takes a plain one inside a message for its end.
func (c *memoryConn) Read(b []byte) (int, error) {
	n, err := c.in.Read(b)
	if err != nil {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (c *memoryConn) Write(b []byte) (int, error) {
	c.writtenBy = c.deadline
	return c.out.Write(b)
}

func (c *memoryConn) SetDeadline(t time.Time) error {
	c.deadline = t
	return nil
}

func (c *memoryConn) Close() error                     { return nil }
func (c *memoryConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *memoryConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *memoryConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }

// hijacked gives its memoryConn away.
type hijacked struct {
	http.ResponseWriter
	conn *memoryConn
}

func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(io.Discard)), nil
}
