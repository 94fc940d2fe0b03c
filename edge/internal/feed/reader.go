package feed

import (
	"sync/atomic"

	"canopy/shared/event"
)

// Socket is what a feed needs of a session. Its methods must not block.
type Socket interface {
	// Write hands whole frames to the connection, which keeps what the kernel does not
	// take. Every byte that the kernel took is told to Reader.Written, now or later.
	Write(frames []byte) error

	// WriteFast is Write for the sweep, which does hardly anything else.
	WriteFast(frames []byte) error

	// Lagged says that the socket fell off the ring.
	Lagged()

	// Detached says that the sweep will never write to the socket again. It is called
	// once, after Reader.Detach, in whichever goroutine then knows it.
	Detached()
}

// bits of Reader.state
const (
	claimed   uint32 = 1 << iota // somebody writes, or the socket is not open yet
	detached                     // no more writes
	stalled                      // the sweep waits for Written to drain owed
	replaying                    // it reads from the stream and is in no bucket
)

// Reader is one socket's place in a feed, embedded by value in its session. It is made
// by Feed.Attach, claimed; Release lets the sweep write to it.
type Reader struct {
	socket Socket
	track  *track
	bucket *bucket
	index  int   // in bucket.readers, guarded by the bucket
	waits  bool  // in bucket.resumed, guarded by the bucket
	entry  entry // belongs to whoever has claimed it
	packs  bool  // its client takes compressed frames; constant from Hub.Attach on

	state atomic.Uint32
	owed  atomic.Int64  // bytes given to Write less those that the kernel took
	pos   atomic.Uint64 // in the track; the sweep alone moves it
	seq   atomic.Uint64 // of the last event written, or the feed's when it was attached
	log   atomic.Uint64 // that seq belongs to
}

// Cursor names the last event that was written to the socket, so that a client can
// resume behind it.
func (r *Reader) Cursor() event.Cursor {
	return event.Cursor{Log: event.Log(r.log.Load()), Sequence: r.seq.Load()}
}

// place notes c as the last event written. The reader is claimed.
func (r *Reader) place(c event.Cursor) {
	if log := uint64(c.Log); r.log.Load() != log { // it hardly ever changes, and the sweep is in a hurry
		r.log.Store(log)
	}
	r.seq.Store(c.Sequence)
}

// Deflate lets the feed write compressed frames. It is called before Hub.Attach.
func (r *Reader) Deflate() { r.packs = true }

// Deflates says whether Deflate was called.
func (r *Reader) Deflates() bool { return r.packs }

// Owe counts n bytes that the session is about to Write by itself (control frames).
// It gives the bytes that were owed before.
func (r *Reader) Owe(n int) int64 { return r.owed.Add(int64(n)) - int64(n) }

// Owed is the number of bytes that the kernel has not taken.
func (r *Reader) Owed() int64 { return r.owed.Load() }

// Written counts n bytes that the kernel took. It sets atomics and queues, no more,
// because it runs under the connection's lock. It says whether nothing is owed now.
func (r *Reader) Written(n int) bool {
	if r.owed.Add(-int64(n)) != 0 {
		return false
	}
	if r.state.Load()&stalled != 0 && r.clear(stalled) {
		r.goOn()
	}
	return true
}

// goOn has the socket visited.
func (r *Reader) goOn() {
	if r.state.Load()&replaying != 0 {
		r.track.feed.replay(r)
	} else {
		r.bucket.resume(r)
	}
}

// Release lets the feed write to the socket, from its place on.
func (r *Reader) Release() {
	if r.unclaim() {
		r.goOn()
	}
}

// Detach ends the feed for this socket. Detached follows when no write is under way.
// It may be called more than once and by any goroutine that holds no lock.
func (r *Reader) Detach() {
	for {
		s := r.state.Load()
		if s&detached != 0 {
			return
		}
		if r.state.CompareAndSwap(s, s|detached) {
			if s&replaying == 0 {
				r.bucket.remove(r)
			} else {
				r.track.feed.replays.remove(r)
			}
			r.track.feed.left(r.track)
			if s&claimed == 0 {
				r.socket.Detached()
			}
			return
		}
	}
}

// Slow counts a socket that has to go because it does not read.
func (r *Reader) Slow() {
	if r.track != nil { // else it is in a group
		r.track.feed.hub.stats.lagged.Inc()
	}
}

// claim takes the right to write. It fails if the reader is claimed, detached or stalled.
func (r *Reader) claim() bool { return r.state.CompareAndSwap(0, claimed) }

// claimReplay does the same for one that is replaying.
func (r *Reader) claimReplay() bool { return r.state.CompareAndSwap(replaying, replaying|claimed) }

// unclaim gives the right back. It is false if the reader was detached meanwhile; then
// the session is told.
func (r *Reader) unclaim() bool {
	for {
		s := r.state.Load()
		if r.state.CompareAndSwap(s, s&^claimed) {
			if s&detached != 0 {
				r.socket.Detached()
				return false
			}
			return true
		}
	}
}

// clear takes bit away and says whether it was set.
func (r *Reader) clear(bit uint32) bool {
	for {
		s := r.state.Load()
		if s&bit == 0 {
			return false
		}
		if r.state.CompareAndSwap(s, s&^bit) {
			return true
		}
	}
}

// stall notes, after a write, that the kernel did not take everything. It is false if
// it took the rest meanwhile. The reader is claimed.
func (r *Reader) stall() bool {
	for {
		s := r.state.Load()
		if r.state.CompareAndSwap(s, s|stalled) {
			break
		}
	}
	return r.owed.Load() != 0 || !r.clear(stalled)
}
