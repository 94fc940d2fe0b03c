// Package session is one open socket from the 101 to its close: what its client sends,
// Pings and silence, the expiry of its credentials, and the close frame.
//
// A session has no goroutine and no timer. Its events are written by the sweep of
// package feed, what comes from its client is read by the pollers of package ws, and
// everything that is due at some time is done by the wheel of its Registry.
package session

import (
	"sync/atomic"
	"time"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/authz"
	"canopy/edge/internal/feed"
	"canopy/edge/internal/group"
	"canopy/edge/internal/ws"
)

// states of a session, in order
const (
	open    uint32 = iota
	closing        // the close frame is written or about to be
	gone
)

// expiryMargin is how much too early credentials may end, so that with the wheel's whole
// seconds they never end more than a second too late.
const expiryMargin = 100 * time.Millisecond

// maxControl bounds the bytes of Pongs that wait behind events for a client that does
// not read; further Pings go unanswered until it does.
const maxControl = 4 << 10

// Session is one socket. The sweep, the poller and the wheel call it from their own
// goroutines; its state moves only forward, so that each of them may close it.
type Session struct {
	ws.Conn
	Reader feed.Reader // its place in the feed; in a group it only keeps account of bytes

	// Member is the session's place in a group, nil if it is in none. It is set before Add.
	Member *group.Member

	// Application is the name of the application that the socket was opened for.
	Application string

	// Ended, if not nil, is called once when the session is over, or was abandoned. It is
	// set before Registry.Add and does not block.
	Ended func()

	registry  *Registry
	principal atomic.Pointer[authn.Principal]

	state   atomic.Uint32
	pen     pen
	hangUp  atomic.Uint32 // what to do once the close frame is out
	cutAt   atomic.Uint32 // second at which a closing session is cut
	pongs   atomic.Int32  // bytes of Pongs that wait
	pinged  uint32        // second of the Ping that waits for an answer, 0 if none; the wheel's
	closing *Closing      // set by whoever moved state to closing
	access  *access       // guarded by the registry's accesses

	link // the wheel's
}

// values of Session.hangUp
const (
	awaitPeer  uint32 = iota // the peer is to answer the close frame
	closeWrite               // the peer broke the protocol and may be sending: half-close
	cut                      // the peer closed: nothing to wait for
)

// Principal is who the client is.
func (s *Session) Principal() authn.Principal { return *s.principal.Load() }

// least is the access that the session needs to stay open: in a group of the application's
// members whoever is none any more must not take their events.
func (s *Session) least() authz.Access {
	if s.Member != nil && s.Member.OfMembers() {
		return authz.Member
	}
	return authz.Public
}

// Close ends the session once: the close frame goes behind the events that were already
// written. It does not block and may be called from anywhere but OnWritten.
func (s *Session) Close(c Closing) { s.close(c, awaitPeer, group.Dismissed) }

// close reports whether it was this call that ended the session. In a group how says what its
// end means for the events that it had.
func (s *Session) close(c Closing, hangUp uint32, how group.Departure) bool {
	if !s.state.CompareAndSwap(open, closing) {
		return false
	}
	why := c // so that a session that is open has room for a pointer only
	s.closing = &why
	s.hangUp.Store(hangUp)
	s.cutAt.Store(s.registry.engine.Now() + closeSeconds)
	s.registry.count(c)
	s.registry.wheel.hasten(s, closeSeconds)
	s.detach(how)
	return true
}

// Deflate says that permessage-deflate was agreed on. It is called before the session gets
// its place in a feed, or in a group, which has to be told besides.
func (s *Session) Deflate() {
	s.Inflate()
	s.Reader.Deflate()
}

// Release lets events be written: the connection is adopted.
func (s *Session) Release() {
	if s.Member != nil {
		s.Member.Open()
	} else {
		s.Reader.Release()
	}
}

// detach gives up the session's place.
func (s *Session) detach(how group.Departure) {
	if s.Member != nil {
		s.Member.Leave(how)
	} else {
		s.Reader.Detach()
	}
}

// Detached writes the close frame: no event follows any more, and no control frame.
func (s *Session) Detached() {
	if s.pen.last() {
		s.farewell()
	}
}

// farewell writes the close frame.
func (s *Session) farewell() {
	if s.state.Load() != closing {
		return // the connection is gone already
	}
	reason := s.closing.Reason
	if s.closing.Resume && s.Member == nil { // a group keeps its place by itself
		reason += " since=" + s.Reader.Cursor().String()
	}
	s.send(ws.AppendClose(make([]byte, 0, 2+2+len(reason)), s.closing.Code, reason))
	s.finish()
}

// finish ends the connection as far as that can be done now.
func (s *Session) finish() {
	switch s.hangUp.Load() {
	case cut:
		if s.Reader.Owed() == 0 {
			s.Cut()
		}
	case closeWrite:
		if s.Reader.Owed() == 0 {
			s.CloseWrite()
		}
	}
}

// Lagged closes a slow consumer.
func (s *Session) Lagged() { s.Close(SlowConsumer) }

// OnUnread closes a client that does not read. The connection is cut after that.
func (s *Session) OnUnread(why ws.Unread) {
	if s.Member != nil {
		s.Close(Unacknowledged)
	} else {
		s.Reader.Slow()
		s.Close(SlowConsumer)
	}
	s.registry.unread(s, why)
}

// control writes a control frame, unless a close frame was written already.
func (s *Session) control(frame []byte) {
	if !s.pen.take() {
		return
	}
	s.send(frame)
	if s.pen.put() {
		s.farewell()
	}
}

// send writes frames and keeps the account of what the kernel owes. An error means that
// the connection is gone, and OnGone comes besides.
func (s *Session) send(frames []byte) {
	s.Reader.Owe(len(frames))
	_ = s.Write(frames)
}

// Send writes events of a group, and with asks a Ping behind them.
func (s *Session) Send(frames []byte, asks bool) {
	if asks {
		s.ExpectPong()
	}
	s.send(frames)
}

// Owed is the number of bytes that the kernel has not taken.
func (s *Session) Owed() int64 { return s.Reader.Owed() }

// Unanswering closes a member of a group that acknowledges nothing.
func (s *Session) Unanswering() { s.Close(Unacknowledged) }

// OnMessage takes what a client says: RefreshAccessToken, or nothing that is known.
func (s *Session) OnMessage(_ bool, payload []byte) {
	if s.state.Load() != open {
		return
	}
	token, err := parseMessage(payload)
	if err != nil {
		s.registry.stats.incoming.WithLabelValues("unknown").Inc()
		s.Close(UnknownMessage)
		return
	}
	s.registry.stats.incoming.WithLabelValues("refresh_access_token").Inc()
	s.registry.refresh(s, token)
}

// OnPing answers, unless the client does not read its answers.
func (s *Session) OnPing(payload []byte) {
	if s.state.Load() != open {
		return
	}
	n := ws.HeaderLen(len(payload)) + len(payload)
	if s.Reader.Owed() == 0 {
		s.pongs.Store(0)
	} else if s.pongs.Add(int32(s.OnWire(n))) > maxControl {
		return
	}
	s.control(ws.AppendFrame(make([]byte, 0, n), ws.OpPong, payload))
}

// OnPong acknowledges events of a group. Otherwise the bytes have shown life, and that is
// all.
func (s *Session) OnPong(payload []byte) {
	if s.Member != nil {
		s.Member.Pong(payload)
	}
}

// OnClose answers the client's close frame, or takes it as the answer to ours.
func (s *Session) OnClose(code uint16, _ string) {
	s.close(Closing{Code: code}, cut, departure(code))
	if s.hangUp.Load() != cut { // we closed first
		s.Cut()
	}
}

// OnViolation closes a client that breaks the protocol, or sends too much.
func (s *Session) OnViolation(code uint16, reason string) {
	switch code {
	case ws.ClosePolicy:
		s.registry.stats.tooMany.Inc()
	case ws.CloseTooBig:
		s.registry.stats.tooBig.Inc()
	case ws.CloseTryLater:
		s.registry.stats.unfinished.Inc()
	}
	s.close(Closing{Code: code, Reason: reason}, closeWrite, group.Gone)
}

// OnWritten keeps the account of what the kernel took.
func (s *Session) OnWritten(n int) {
	if s.Reader.Written(n) && s.Member != nil {
		s.Member.Drained()
	}
}

// OnGone forgets the session.
func (s *Session) OnGone(error) {
	s.state.Store(gone)
	s.detach(group.Failed) // if nothing was said before
	s.registry.remove(s)
	if s.Ended != nil {
		s.Ended()
	}
}

// Abandon forgets a session that has its place in a feed and that the engine never adopted.
func (s *Session) Abandon() { s.OnGone(nil) }

// due does what is due at second now and gives the second of the next look. wall is the
// same moment on the wall clock.
func (s *Session) due(now uint32, wall time.Time) uint32 {
	r := s.registry
	if s.state.Load() != open {
		s.finish()
		if now >= s.cutAt.Load() {
			s.Cut()
		}
		return now + 1
	}
	p := s.principal.Load()
	if !p.Expires.IsZero() && !wall.Add(expiryMargin).Before(p.Expires) {
		s.Close(TokenExpired)
		return now + 1
	}
	next := s.ping(now)
	if !p.Expires.IsZero() {
		left := p.Expires.Sub(wall)
		next = min(next, now+uint32(min(left, maxDelay*time.Second)/time.Second)+1)
	}
	return min(next, now+uint32(r.ping.Interval/time.Second)+1)
}

// ping asks a silent client for a sign of life, and drops one that gave none.
func (s *Session) ping(now uint32) (next uint32) {
	interval := uint32(s.registry.ping.Interval / time.Second)
	timeout := uint32(s.registry.ping.Timeout / time.Second)
	heard := s.LastHeard()
	if heard == 0 {
		return now + 1 // not adopted yet: nothing that is written now would ever be sent
	}
	if s.pinged != 0 && heard >= s.pinged {
		s.pinged = 0
	}
	switch {
	case s.pinged != 0 && now >= s.pinged+timeout:
		s.registry.stats.silent.Inc()
		s.Cut()
		return now + 1
	case s.pinged != 0:
		return s.pinged + timeout
	case now >= heard+interval:
		s.pinged = now
		s.ExpectPong()
		s.control(pingFrame)
		return now + timeout
	default:
		return heard + interval
	}
}

var pingFrame = ws.AppendFrame(nil, ws.OpPing, nil)
