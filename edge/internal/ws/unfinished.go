package ws

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

const (
	// DefaultMaxUnfinished is how much all unfinished messages may hold, in bytes, unless
	// Config says otherwise.
	DefaultMaxUnfinished = 64 << 20

	// finishSeconds is how long a client may take to finish a message or frame that it has
	// begun: what is not finished holds memory, also if the client answers every Ping.
	finishSeconds = 10
)

var (
	neverFinished  = &violation{CloseTryLater, "message is not finished in time"}
	tooMuchPending = &violation{CloseTryLater, "too many unfinished messages"}
)

// partials lists what the readers of an engine hold, the oldest first, and counts it. Any
// goroutine may call it; what it writes of a partial is written with Conn.turn held, too.
type partials struct {
	bytes atomic.Int64 // of all; changed with mu held

	mu          sync.Mutex
	first, last *partial
}

// pending is a partial's place among the unfinished.
type pending struct {
	conn       *Conn
	prev, next *partial
	began      uint32 // second of the engine's clock
	counted    int    // bytes
	listed     bool
}

// size is what p holds, in bytes.
func (p *partial) size() int {
	return int(unsafe.Sizeof(*p)) + cap(p.data) + cap(p.control) + p.below
}

// account notes what a step of c's reader has changed; had is what it held before. The
// caller holds c.turn.
func (u *partials) account(c *Conn, had *partial, now uint32) { u.note(c, had, c.read.part, now) }

// note notes that c holds has, and what it held before was had. The caller holds c.turn.
func (u *partials) note(c *Conn, had, has *partial, now uint32) {
	if had == has && (has == nil || has.listed && has.counted == has.size()) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if has != nil && !has.listed {
		has.conn, has.began, has.prev = c, now, u.last
		if had != nil && had.listed { // the header is complete, the same frame goes on
			has.began, has.prev = had.began, had
		}
		u.link(has)
	}
	if had != nil && had != has {
		u.unlink(had)
	}
	if has != nil {
		u.bytes.Add(int64(has.size() - has.counted))
		has.counted = has.size()
	}
}

// drop forgets p, if it is listed. The caller holds its connection's turn.
func (u *partials) drop(p *partial) {
	if p == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.unlink(p)
}

// oldest is what was begun first, nil if there is nothing.
func (u *partials) oldest() (p *partial, c *Conn, began uint32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.first == nil {
		return nil, nil, 0
	}
	return u.first, u.first.conn, u.first.began
}

// link puts p behind p.prev, or first if that is nil. mu is held.
func (u *partials) link(p *partial) {
	p.listed = true
	if p.prev != nil {
		p.next, p.prev.next = p.prev.next, p
	} else {
		p.next, u.first = u.first, p
	}
	if p.next != nil {
		p.next.prev = p
	} else {
		u.last = p
	}
}

// unlink takes p out, if it is in. mu is held.
func (u *partials) unlink(p *partial) {
	if !p.listed {
		return
	}
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		u.first = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	} else {
		u.last = p.prev
	}
	u.bytes.Add(int64(-p.counted))
	p.pending = pending{}
}

// Unfinished returns the bytes that unfinished messages of clients hold now.
func (e *Engine) Unfinished() int64 { return e.partials.bytes.Load() }

// relieve ends the oldest unfinished messages until the others are within the bound: those
// of clients that mean to finish are young. The caller holds no connection's turn.
func (e *Engine) relieve() {
	for e.partials.bytes.Load() > int64(e.config.MaxUnfinished) {
		p, c, _ := e.partials.oldest()
		if p == nil {
			return
		}
		e.abandon(c, p, tooMuchPending)
	}
}

// overdue ends what has been unfinished for too long at second now.
func (e *Engine) overdue(now uint32) {
	for {
		p, c, began := e.partials.oldest()
		if p == nil || now <= began+e.finishSeconds {
			return
		}
		e.abandon(c, p, neverFinished)
	}
}

// abandon ends c with v if p is what its reader, or the TLS below it, still holds.
func (e *Engine) abandon(c *Conn, p *partial, v *violation) {
	c.turn.Lock()
	defer c.turn.Unlock()
	e.partials.drop(p)
	if c.read.part != p && (c.secure == nil || c.secure.part != p) {
		return // finished, or gone
	}
	e.forget(c)
	defer e.rescue(c)
	if c.state.Or(stateDeaf)&(stateCut|stateDeaf) != 0 {
		c.read.part = nil // its end is on its way
		return
	}
	c.read.refuse(v, c.owner)
}

// forget drops all that c holds. The caller holds its turn.
func (e *Engine) forget(c *Conn) {
	e.partials.drop(c.read.part)
	if c.secure != nil {
		e.partials.drop(c.secure.part)
		c.secure.part = nil
	}
}
