package ws

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
)

// maxHello is what a client may send before the first word of its handshake's answer, in
// bytes: crypto/tls would hold 64 KiB for it. Those of browsers have about 2 KiB.
const maxHello = 8 << 10

var (
	errLongHello   = errors.New("hello of the TLS handshake is too long")
	errMuchOpening = errors.New("too much was sent before a socket was open")
)

const handshakeRecord = 22

// retryRandom is what a server's hello that asks for another one has as its random (RFC 8446,
// 4.1.3).
var retryRandom = sha256.Sum256([]byte("HelloRetryRequest"))

// asksAgain tells a record that asks the client for another hello.
func asksAgain(record []byte) bool {
	const before = recordHeader + 4 + 2 // the message's header and its version
	return len(record) >= before+len(retryRandom) && record[recordHeader] == 2 &&
		bytes.Equal(record[before:before+len(retryRandom)], retryRandom[:])
}

// Opening says what a connection may do until it is a socket.
type Opening struct {
	// MaxBytes is how much a client may send, in bytes on the wire; 0 means any number.
	// Records that yield nothing, such as changes of keys, cost work and count for nothing
	// else.
	MaxBytes int
	// Turn is asked, if it is not nil, when a client's hello has come, before anything is
	// computed for it, and again for a second one, if it was told to send that. ctx is that of HandshakeContext. It may wait; an error ends the
	// handshake. done, which may be called by several goroutines and more than once, is
	// called when the handshake waits for the client.
	Turn func(ctx context.Context) (done func(), err error)
}

// opening is an accepted connection below TLS, until it is a socket: what net/http reads
// and the handshake writes goes through it.
type opening struct {
	net.Conn
	*Opening
	head     [recordHeader]byte
	read     int         // bytes
	answered atomic.Bool // something was written
	done     atomic.Pointer[func()]

	// The next two belong to the handshake.
	ctx   context.Context // of the turn
	retry bool            // a second hello comes, and most is computed for that
}

// NetConn is the connection below.
func (o *opening) NetConn() net.Conn { return o.Conn }

// Read is called by one goroutine at a time.
func (o *opening) Read(b []byte) (int, error) {
	o.pause()
	n, err := o.Conn.Read(b)
	if o.read < len(o.head) {
		copy(o.head[o.read:], b[:n])
	}
	o.read += n
	if o.retry && n > 0 {
		if err := o.turn(o.ctx); err != nil {
			return 0, err
		}
	}
	switch {
	case o.MaxBytes > 0 && o.read > o.MaxBytes:
		return 0, errMuchOpening
	case o.answered.Load():
	case o.read > recordHeader+maxHello:
		return 0, errLongHello
	case o.read >= recordHeader && o.head[0] == handshakeRecord && binary.BigEndian.Uint16(o.head[3:]) > maxHello:
		return 0, errLongHello // crypto/tls makes room for all of a record when it knows its length
	}
	return n, err
}

// Write answers.
func (o *opening) Write(b []byte) (int, error) {
	o.pause()
	if !o.answered.Load() {
		o.answered.Store(true)
	}
	if len(b) > 0 && b[0] == handshakeRecord { // in the clear: nobody else writes yet
		if o.retry = asksAgain(b); !o.retry {
			o.ctx = nil
		}
	}
	return o.Conn.Write(b)
}

// Close ends the turn, too, if something has failed in it.
func (o *opening) Close() error {
	o.pause()
	return o.Conn.Close()
}

// CloseWrite ends the direction to the client.
func (o *opening) CloseWrite() error {
	if half, ok := o.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return o.Close()
}

// turn waits until the answer to the hello may be computed.
func (o *opening) turn(ctx context.Context) error {
	if o.Turn == nil {
		return nil
	}
	done, err := o.Turn(ctx)
	if err != nil {
		return err
	}
	o.ctx = ctx
	o.done.Store(&done)
	return nil
}

// pause ends the turn: the client's is next.
func (o *opening) pause() {
	if o.done.Load() == nil {
		return
	}
	if done := o.done.Swap(nil); done != nil {
		(*done)()
	}
}
