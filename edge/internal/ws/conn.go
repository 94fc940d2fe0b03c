// Package ws is the WebSocket of the edge: the handshake on net/http, frames, and
// connections on nbio's pollers, so that an idle socket needs no goroutine and no buffer.
// It is the only place that knows nbio.
//
// A connection's way: CheckUpgrade looks at the request, Accept answers 101 and takes the
// TCP connection from net/http, Engine.Adopt puts it onto a poller. From then on the
// owner, a Handler, is called with what comes, writes finished frames with Conn.Write,
// ends it with Conn.Cut, and hears of its end in OnGone.
package ws

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lesismal/nbio"
	"golang.org/x/sys/unix"
)

// ErrNotOpen is what Conn.Write returns before Engine.Adopt has put the connection onto a
// poller.
var ErrNotOpen = errors.New("connection is not open yet")

// orphanTimeout is how long the kernel offers what is left of a connection that was cut to
// a peer that does not take it.
const orphanTimeout = 5 * time.Second

// Handler is the owner of a connection and hears what comes from the peer.
//
// Calls for one connection never overlap, except OnUnread, and OnWritten, which comes from
// whatever goroutine writes or flushes, under nbio's lock of the connection: it may set atomics and
// queue, never call the connection. No method may block: it would hold up every connection
// of its poller. A payload is valid during the call only. A method that panics costs its
// connection, not the process; Engine.Panics counts.
type Handler interface {
	// OnMessage hands over a whole data message, which may be empty. Text is UTF-8.
	OnMessage(text bool, payload []byte)
	// OnPing hands over a Ping; the owner answers with a Pong of the same payload.
	OnPing(payload []byte)
	// OnPong hands over a Pong.
	OnPong(payload []byte)
	// OnClose hands over the peer's close frame, with CloseNoStatus if it carried no
	// code. Nothing that follows it is read. The owner answers it and cuts.
	OnClose(code uint16, reason string)
	// OnViolation reports a breach of the protocol: the owner answers with this close
	// code and reason. What the peer sends from then on, its close frame too, is
	// dropped unread.
	OnViolation(code uint16, reason string)
	// OnWritten reports that the kernel took n more of the bytes given to Write. It may
	// come before Write returns, and never after OnGone.
	OnWritten(n int)
	// OnUnread says that the socket does not read what it is sent and must go now, to free
	// what waits for it: the owner closes it as far as that can be done at once, and it is
	// cut after the call. It comes from any goroutine, also beside another call.
	OnUnread(why Unread)
	// OnGone comes exactly once, and last: the connection is closed, by the peer or by
	// Conn.Cut. err is nil after Cut, io.EOF if the peer closed, else the cause.
	OnGone(err error)
}

// Conn is one WebSocket connection on a poller. The zero value is ready for
// Engine.Adopt; it must not be copied, and is meant to be embedded in its owner.
//
// Write, Cut and the others may be called from any goroutine, also from the Handler's
// methods, except OnWritten.
type Conn struct {
	nb    atomic.Pointer[nbio.Conn] // nil until Adopt has registered it
	owner Handler                   // set before nb, then constant

	engine *Engine // set before nb, then constant
	held   *held   // nil if nbio keeps nothing that the kernel has not taken; guarded by nbio's lock

	secure *carrier // nil without TLS; set before nb, then constant

	turn  sync.Mutex // held during the owner's callbacks, so that they never overlap
	read  reader     // guarded by turn
	heard atomic.Uint32
	state atomic.Uint32 // bits below, and above them the Pongs that may come and do not count
}

const (
	stateCut    = 1 << iota // Cut was called
	stateDeaf               // nothing more is read: the peer closed, or broke the protocol
	stateFailed             // Adopt failed: the owner never hears of this connection
	awaitedPong             // the first bit of the number of Pongs that may come
)

// Cut closes the TCP connection at once: what the kernel has taken still goes out, what
// waits behind it is dropped, no more messages are handed over, and OnGone follows soon.
// Calling it again does nothing; a connection that is cut before Adopt is closed by it.
func (c *Conn) Cut() {
	if c.state.Or(stateCut)&stateCut != 0 {
		return
	}
	if nb := c.nb.Load(); nb != nil {
		if c.secure != nil {
			c.secure.farewell()
		}
		shutdown(nb, syscall.SHUT_RDWR)
	}
}

// CloseWrite tells the peer that nothing more follows, while what it sends is still taken
// from the kernel: a peer that is in the middle of sending then sees the close frame
// rather than a reset. It is for an owner that has written its close frame and whose
// bytes OnWritten has all reported; anything still waiting is lost, and the connection
// with it.
func (c *Conn) CloseWrite() {
	if nb := c.nb.Load(); nb != nil {
		if c.secure != nil {
			c.secure.farewell()
		}
		shutdown(nb, syscall.SHUT_WR)
	}
}

// shutdown ends one or both directions and leaves closing the descriptor to the poller,
// which sees the hang-up: if another goroutine closed it, its number could be reused
// while the poller still holds an event of the old connection, and nbio would close the
// new one for it.
func shutdown(nb *nbio.Conn, how int) {
	nb.Lock()
	defer nb.Unlock()
	if closed, _ := nb.IsClosed(); !closed {
		if how == syscall.SHUT_RDWR {
			// Or the kernel keeps what a peer that does not read has not taken, and asks
			// it for many minutes. It only ever costs memory, so a failure is no matter.
			_ = unix.SetsockoptInt(nb.Hash(), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(orphanTimeout/time.Millisecond))
		}
		// An error means that the peer is gone already: the poller sees that, too.
		_ = syscall.Shutdown(nb.Hash(), how)
	}
}

// LastHeard returns when the last bytes came from the peer, over TLS the last that were in
// the clear, or when it was adopted, in seconds of Engine.Now. Its error is at most about a
// second.
func (c *Conn) LastHeard() uint32 {
	return c.heard.Load()
}

// OnWire is how many bytes a write of n becomes at most: TLS makes a record of even the
// smallest one. n is less than 16 KiB.
func (c *Conn) OnWire(n int) int {
	if c.secure != nil {
		return n + recordOverhead
	}
	return n
}

// ExpectPong says that a Ping is about to be written: one Pong does not count against
// Config.MaxFrames then.
func (c *Conn) ExpectPong() { c.state.Add(awaitedPong) }

// Inflate lets the peer send compressed messages: permessage-deflate was agreed on. It is
// called before Engine.Adopt.
func (c *Conn) Inflate() { c.read.inflates = true }

// consume hands the bytes to the reader until the connection is cut or nothing more is to
// be read. The caller holds turn.
func (c *Conn) consume(data []byte, e *Engine) {
	for len(data) > 0 && c.state.Load()&(stateCut|stateDeaf) == 0 {
		had := c.read.part
		rest, open := c.read.step(data, e.config.MaxMessage, c.owner)
		if open {
			open = c.charge(c.counts(), e)
		}
		if !open {
			c.state.Or(stateDeaf)
		}
		e.partials.account(c, had, e.now.Load())
		data = rest
	}
}

// charge counts n frames. It is false if they are too many, which it reports. The caller
// holds turn.
func (c *Conn) charge(n int, e *Engine) (open bool) {
	most := e.config.MaxFrames
	return n == 0 || most == 0 || !c.read.over(e.now.Load(), n, most) || c.read.refuse(tooMany, c.owner)
}

// counts is how many frames the latest step counts.
func (c *Conn) counts() int {
	n := c.read.takeWeight()
	op, begun := c.read.takeBegun()
	if begun && op == OpPong && c.state.Load() >= awaitedPong {
		c.state.Add(^uint32(awaitedPong - 1)) // turn is held: nobody else takes one
		return n
	}
	if begun {
		n++
	}
	if begun && c.secure != nil {
		c.secure.crumbs = 0
	}
	return n
}
