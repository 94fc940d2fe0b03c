package ws

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/lesismal/nbio"
)

// Secure returns a listener that ends TLS on what listener accepts: its connections are
// *tls.Conn, as net/http expects, and can be given to Engine.Adopt after the handshake.
// config is not changed any more, and has no GetConfigForClient.
func Secure(listener net.Listener, config *tls.Config, limits Opening) net.Listener {
	config = config.Clone()
	// The first records of a connection would be small ones otherwise, each with a system
	// call of its own.
	config.DynamicRecordSizingDisabled = true
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		return nil, hello.Conn.(*carrier).Conn.(*opening).turn(hello.Context())
	}
	return &secureListener{listener, config, &limits}
}

type secureListener struct {
	net.Listener
	config *tls.Config
	limits *Opening
}

func (l *secureListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	carrier := &carrier{Conn: &opening{Conn: conn, Opening: l.limits}}
	carrier.tls = tls.Server(carrier, l.config)
	return carrier.tls, nil
}

// carrier is the connection below TLS. Until it is moved, it is the accepted connection,
// on which net/http does the handshakes; then it is a connection of nbio's, so that TLS,
// too, needs no goroutine for a socket:
//
//   - nbio reads, and the poller gives crypto/tls what came. When that is used up, Read
//     says so with an error that counts as temporary, after which crypto/tls goes on where
//     it stopped, as it does after a read deadline.
//   - Write never blocks: what the kernel does not take is kept by nbio, as without TLS.
//
// The owner's account is of bytes in the clear, nbio's of those on the wire. plain of the
// former are reported when nothing of the latter is left: that is all an owner asks for.
//
// Read is called by one goroutine at a time, that which holds Conn.turn; Write and the
// account by any.
type carrier struct {
	net.Conn // as accepted; closed when it is moved

	tls   *tls.Conn
	moved *nbio.Conn // set by move, before anybody else knows the connection
	conn  *Conn      // likewise
	input []byte     // came and was not read yet; guarded by Conn.turn
	cause error      // why nothing is read any more; guarded by Conn.turn

	records records  // of what was read; guarded by Conn.turn after the move
	part    *partial // what crypto/tls holds that is not finished; guarded by Conn.turn
	before  uint32   // whole records before part
	counted uint32   // whole records up to here were charged for; guarded by Conn.turn
	crumbs  uint8    // since the latest frame began; guarded by Conn.turn
	replies int      // bytes of answers that may wait; guarded by Conn.turn

	mu      sync.Mutex   // guards what follows; not held across a write
	wire    atomic.Int64 // bytes given to nbio that the kernel has not taken
	sending int          // calls of send under way
	plain   int          // bytes in the clear that were not reported
	writing bool         // a write to nbio is under way
	gone    bool         // the owner has heard of the end
	held    *holder      // nil if nbio keeps nothing
}

// errNoInput tells crypto/tls that there is nothing to read now.
var errNoInput = noInput{errors.New("nothing to read now")}

// errTooManyRecords ends a connection that has not become a socket.
var errTooManyRecords = errors.New("too many TLS records before the upgrade")

type noInput struct{ error }

func (noInput) Timeout() bool   { return true }
func (noInput) Temporary() bool { return true }

// move has all bytes of c go through nb from now on. c's owner is told the bytes in the clear
// that the kernel took.
func (s *carrier) move(c *Conn, nb *nbio.Conn) {
	s.conn, s.moved = c, nb
	if o, ok := s.Conn.(*opening); ok {
		s.Conn = o.Conn // what it has counted is of no use any more
	}
	s.records.heard() // the handshake is over
	s.counted = s.records.whole
}

// Read reads what came from the peer. After the move it does not block, and never gives
// more than the rest of a record, or of its header: so what crypto/tls has is no more than
// what it is at, and each record that it goes through can be told by what came of it.
func (s *carrier) Read(b []byte) (n int, err error) {
	defer func() { s.records.take(b[:n]) }()
	if s.moved == nil {
		if s.records.whole > fewToUpgrade {
			return 0, errTooManyRecords
		}
		return s.Conn.Read(b)
	}
	if len(s.input) == 0 {
		return 0, errNoInput
	}
	n = copy(b, s.input[:min(len(s.input), s.records.next())])
	s.input = s.input[n:]
	return n, nil
}

// Write writes records. After the move it does not block.
func (s *carrier) Write(b []byte) (int, error) {
	if s.moved == nil {
		return s.Conn.Write(b)
	}
	s.give(len(b))
	n, err := s.moved.Write(b)
	s.gave()
	return n, err
}

// send encrypts and writes b.
func (s *carrier) send(b []byte) error {
	// What is taken of the first record does not count before the last was given.
	s.mu.Lock()
	s.sending++
	s.plain += len(b)
	s.mu.Unlock()
	if _, err := s.tls.Write(b); err != nil {
		return err // the connection is closed: nothing is reported any more
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sending--
	s.settle()
	return nil
}

// give notes n bytes that nbio is about to be given. crypto/tls lets one such write be under
// way.
func (s *carrier) give(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wire.Add(int64(n))
	s.writing = true
}

// gave notes that nbio has them: what is left by then waits in memory.
func (s *carrier) gave() {
	if s.wire.Load() == 0 {
		return // writing does not matter: nbio takes nothing from its memory
	}
	s.keep()
	s.conn.engine.checkHeld()
}

// keep lists what waits in memory.
func (s *carrier) keep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writing = false
	left := int(s.wire.Load())
	switch {
	case left == 0 || s.gone:
	case s.held == nil:
		s.held = &holder{}
		s.held.begin(s.conn, left)
	default:
		s.held.wrote(left)
	}
}

// took settles the account when the kernel took b.
func (s *carrier) took(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := int(s.wire.Add(-int64(len(b))))
	switch {
	case s.held == nil:
	case left == 0:
		s.conn.engine.holders.remove(s.held)
		s.held = nil
	default:
		s.held.took(b, left, s.writing)
	}
	s.settle()
}

// settle reports what was sent when nothing is left of it. It calls the owner under mu, which
// may queue and no more, so that end comes after it or before.
func (s *carrier) settle() {
	if s.sending == 0 && s.wire.Load() == 0 && s.plain > 0 && !s.gone {
		n := s.plain
		s.plain = 0
		s.conn.engine.written(s.conn, n)
	}
}

// end stops reports to the owner: nbio has closed the connection and holds nothing. It
// returns why it could not be read, if that is known.
func (s *carrier) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	if s.held != nil {
		s.conn.engine.holders.remove(s.held)
		s.held = nil
	}
	return s.cause
}

// farewell tells the peer that nothing more follows, unless it does not take even that.
func (s *carrier) farewell() {
	if s.wire.Load() == 0 {
		_ = s.tls.CloseWrite() // the peer may be gone
	}
}

// SetDeadline sets net/http's deadlines. After the move there are none.
func (s *carrier) SetDeadline(t time.Time) error { return s.deadline(s.Conn.SetDeadline, t) }

// SetReadDeadline is like SetDeadline.
func (s *carrier) SetReadDeadline(t time.Time) error { return s.deadline(s.Conn.SetReadDeadline, t) }

// SetWriteDeadline is like SetDeadline.
func (s *carrier) SetWriteDeadline(t time.Time) error { return s.deadline(s.Conn.SetWriteDeadline, t) }

func (s *carrier) deadline(set func(time.Time) error, t time.Time) error {
	if s.moved != nil {
		return nil
	}
	return set(t)
}

// plaintext are buffers for what was decrypted, as long as the largest record.
var plaintext = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// decrypt hands what came, and what crypto/tls still has, in the clear to the reader. The
// caller holds turn.
func (c *Conn) decrypt(data []byte, e *Engine) {
	s := c.secure
	readable := plaintext.Get().(*[16 << 10]byte)
	defer plaintext.Put(readable)
	s.input = data
	for c.state.Load()&(stateCut|stateDeaf) == 0 {
		n, err := s.tls.Read(readable[:])
		if n > 0 {
			s.records.heard()
			c.heard.Store(e.now.Load())
		}
		c.consume(readable[:n], e)
		c.chargeRecords(n, e)
		if err == nil {
			continue
		}
		if !errors.Is(err, errNoInput) {
			s.cause = err
			c.state.Or(stateDeaf)
			shutdown(s.moved, syscall.SHUT_RDWR)
		}
		break
	}
	s.input = nil // it is nbio's
	c.accountRecords(e)
}

// chargeRecords counts the records which crypto/tls has gone through to give n bytes: each
// that gave nothing like a frame, and several crumbs together like one. It has a client go that
// does not read what TLS may have answered. The caller holds turn.
func (c *Conn) chargeRecords(n int, e *Engine) {
	s := c.secure
	useless := int(s.records.whole - s.counted)
	s.counted = s.records.whole
	if n > 0 {
		useless--
	}
	if c.state.Load()&(stateCut|stateDeaf) != 0 {
		return
	}
	frames := max(useless, 0)
	if n > 0 && n < crumb && c.read.inside() {
		if s.crumbs++; s.crumbs == fewCrumbs {
			s.crumbs = 0
			frames++
		}
	}
	if !c.charge(frames, e) {
		c.state.Or(stateDeaf)
		return
	}
	if s.wire.Load() == 0 {
		s.replies = 0
	} else if s.replies += max(useless, 0) * replyBytes; s.replies > mostReplies {
		e.unread(c, UnreadReplies)
	}
}

// accountRecords notes what crypto/tls holds that is not finished. Each record has its own
// time, or a client that sends without a pause would have none. The caller holds turn.
func (c *Conn) accountRecords(e *Engine) {
	s, now := c.secure, e.now.Load()
	held := s.records.unfinished()
	if c.state.Load()&(stateCut|stateDeaf) != 0 {
		held = 0 // its end is on its way
	}
	if s.part != nil && (held == 0 || s.before != s.records.whole) {
		e.partials.drop(s.part)
		s.part = nil
	}
	if held == 0 {
		return
	}
	had := s.part
	if had == nil {
		s.part, s.before = &partial{}, s.records.whole
	}
	s.part.below = held
	e.partials.note(c, had, s.part, now)
}

// TCP is the connection below those that are laid around it, nil if there is none. It must be
// asked for before Engine.Adopt. To close it ends all of them at once, without a word to the
// client.
func TCP(conn net.Conn) *net.TCPConn {
	tcp, _ := base(conn)
	return tcp
}

// base finds the TCP connection below conn, and the carrier if TLS runs over it.
// Connections that wrap another one have a method NetConn, as *tls.Conn has.
func base(conn net.Conn) (tcp *net.TCPConn, secure *carrier) {
	for {
		switch c := conn.(type) {
		case *net.TCPConn:
			return c, secure
		case *carrier:
			secure, conn = c, c.Conn
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil, nil
		}
	}
}
