package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"canopy/edge/internal/ws"
)

const (
	// lingerTimeout and lingerBytes are how long and how much is still read from a client
	// that was answered before it had sent its request, so that it gets to read the answer:
	// the kernel discards that with a connection that is closed before all was read.
	lingerTimeout = 500 * time.Millisecond
	lingerBytes   = 64 << 10

	// errorHeaders end the head of the answers that net/http writes by itself, before any
	// handler, to requests that it cannot read.
	errorHeaders = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
)

// front is the listener that net/http serves. Its connections see what net/http reads and
// writes.
type front struct {
	net.Listener
	lines    int // that a head may have
	limits   *limits
	answered func(status int) // hears of answers that do not come from the handler
	// introduced hears of a connection's address when net/http asks for it, which is when it
	// is known. It is false if the connection must end. nil hears of nothing.
	introduced func(c *frontConn, address net.Addr) bool
}

// Accept waits for a connection.
func (f *front) Accept() (net.Conn, error) {
	conn, err := f.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &frontConn{Conn: conn, front: f, tcp: ws.TCP(conn), gone: make(chan struct{})}
	c.secure, _ = conn.(*tls.Conn)
	c.cut = c.end
	return c, nil
}

// frontConn ends a request that has too many header lines while they come, does the TLS
// handshake, and answers in JSON where net/http would write plain text: such an answer
// net/http hands over in one piece, and no handler's can look like it. Everything else
// passes as it is.
type frontConn struct {
	net.Conn
	front  *front
	secure *tls.Conn    // nil without TLS
	tcp    *net.TCPConn // below all else; nil if there is none
	head   head

	shaken     bool   // the handshake is over; of who reads
	turnDone   func() // ends the turn of the handshake; likewise
	introduced bool   // of net/http's goroutine, which asks for the address before it reads

	visitor
	overall *time.Timer // cuts it
	gone    chan struct{}
	going   sync.Once
}

// NetConn is the connection below.
func (c *frontConn) NetConn() net.Conn { return c.Conn }

// Close ends the connection.
func (c *frontConn) Close() error {
	c.going.Do(func() { close(c.gone) })
	return c.Conn.Close()
}

// end closes what is below all else: nobody has to wait for a client that takes no farewell.
func (c *frontConn) end() {
	c.going.Do(func() { close(c.gone) })
	if c.tcp != nil {
		_ = c.tcp.Close()
	}
}

// CloseWrite ends the direction to the client, so that it reads the answer even if it is
// still sending.
func (c *frontConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// RemoteAddr is the client's address, or the peer's. It may have to be read.
func (c *frontConn) RemoteAddr() net.Addr {
	address := c.Conn.RemoteAddr()
	if c.front.introduced != nil && !c.introduced {
		c.introduced = true
		if !c.front.introduced(c, address) {
			c.end()
		}
	}
	return address
}

// Read reads what net/http may have of it.
func (c *frontConn) Read(b []byte) (int, error) {
	if err := c.shake(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	if !c.head.take(b[:n], c.front.lines) {
		c.front.limits.headerLines.Inc()
		c.front.answered(http.StatusRequestHeaderFieldsTooLarge)
		c.dismiss(tooManyLines(), b)
		return 0, io.EOF // net/http says nothing more
	}
	return n, err
}

// shake does the TLS handshake, once, and tells a client that speaks plain HTTP where TLS is
// expected.
func (c *frontConn) shake() error {
	if c.secure == nil || c.shaken {
		return nil
	}
	c.shaken = true
	// Without an end of its own, or there would be a goroutine for it.
	err := c.secure.HandshakeContext(context.WithValue(context.Background(), connKey{}, c))
	if c.turnDone != nil {
		c.turnDone()
		c.turnDone = nil
	}
	if plain := (tls.RecordHeaderError{}); errors.As(err, &plain) && plain.Conn != nil {
		if method := plain.RecordHeader[:]; bytes.HasPrefix(method, []byte("GET /")) || bytes.HasPrefix(method, []byte("POST ")) {
			c.front.answered(http.StatusBadRequest)
			_, _ = plain.Conn.Write(badRequest("TLS is expected here: use wss").raw()) // the client may be gone
		}
	}
	return err
}

// dismiss answers, and reads into b what comes until the client has had time to read that.
func (c *frontConn) dismiss(refused *refusal, b []byte) {
	_ = c.SetDeadline(time.Now().Add(lingerTimeout)) // fails only if the client is gone
	if _, err := c.Conn.Write(refused.raw()); err != nil || c.CloseWrite() != nil {
		return
	}
	for left := lingerBytes; left > 0; {
		n, err := c.Conn.Read(b)
		if err != nil {
			return
		}
		left -= n
	}
}

// Write writes b, or in its place the same refusal in JSON.
func (c *frontConn) Write(b []byte) (int, error) {
	refused := ownRefusal(b)
	if refused == nil {
		return c.Conn.Write(b)
	}
	c.front.answered(refused.status)
	if refused.status == http.StatusRequestHeaderFieldsTooLarge {
		c.front.limits.headerBytes.Inc()
	}
	if _, err := c.Conn.Write(refused.raw()); err != nil {
		return 0, err
	}
	return len(b), nil
}

// ownRefusal reads an answer of net/http's own, nil if b is another one.
func ownRefusal(b []byte) *refusal {
	if bytes.HasPrefix(b, []byte("HTTP/1.1 417 ")) || bytes.HasPrefix(b, []byte("HTTP/1.0 417 ")) {
		// Another one than 100-continue; no handler answers so.
		return &refusal{status: http.StatusExpectationFailed, kind: "ExpectationFailed", message: "Expectation Failed: unknown expectation"}
	}
	rest, ok := bytes.CutPrefix(b, []byte("HTTP/1.1 "))
	if !ok || len(rest) < 3 {
		return nil
	}
	line, body, ok := bytes.Cut(rest, []byte(errorHeaders))
	status, err := strconv.Atoi(string(rest[:3]))
	if !ok || err != nil || bytes.ContainsAny(line, "\r\n") {
		return nil
	}
	message := strings.TrimPrefix(string(body), strconv.Itoa(status)+" ")
	return &refusal{status: status, kind: strings.ReplaceAll(http.StatusText(status), " ", ""), message: message}
}
