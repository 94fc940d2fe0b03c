package feed

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"canopy/shared/event"
)

// Feed is the wire-ready sequence of one application's events on this edge.
//
// Locks are taken in this order, and none is held across a request or a write:
// Feed.mu, Feed.tracksMu, track.mu, bucket.mu, sweep.mu; ring, budget and replays alone
// or last.
type Feed struct {
	hub         *Hub
	application string
	shard       int
	ring        *ring
	whole       *track
	packed      packed

	opened chan struct{} // closed when the feed is ready or has failed
	failed error         // set before opened is closed
	calmed chan struct{} // has room for one: a bucket came to rest
	logID  atomic.Uint64

	replays replays
	finding flights

	mu        sync.Mutex // guards what follows, and the order of appends
	sub       *nats.Subscription
	chain     chain
	remade    event.Cursor // the last event of the log before, until sockets are told; or zero
	ask       bool         // the leader must be asked how far the stream goes
	dropped   int          // messages that sub had dropped when the leader was last asked
	repairing bool
	closed    bool
	looks     int       // that the leader was asked whether anything is missing, lately
	nextLook  time.Time // when it is asked again

	tracksMu sync.Mutex
	tracks   map[trackKey]*track
	sockets  int
	pins     int       // callers between finding the feed and attaching to it
	idle     time.Time // since when there is neither
}

func newFeed(h *Hub, application string, shard int) *Feed {
	f := &Feed{
		hub: h, application: application, shard: shard,
		opened: make(chan struct{}), calmed: make(chan struct{}, 1),
		tracks:  map[trackKey]*track{},
		chain:   chain{room: h.room, held: true},
		replays: replays{accounts: h.accounts, came: make(chan struct{}, 1)},
	}
	f.ring = &ring{budget: h.budget, fell: f.fell}
	f.whole = &track{feed: f, ring: f.ring, whole: true}
	f.packed.ring = &ring{budget: h.budget, fell: f.fell}
	f.packed.whole = &track{feed: f, ring: f.packed.ring, whole: true, packed: true}
	return f
}

func (f *Feed) log() event.Log { return event.Log(f.logID.Load()) }

// open subscribes and finds out where "now" is: what JetStream acknowledges after open
// has returned comes.
func (f *Feed) open(ctx context.Context) error {
	sub, err := f.hub.nc.Subscribe(eventsSubject(f), f.receive)
	if err != nil {
		return err
	}
	if err := sub.SetPendingLimits(pendingMessages, int(f.hub.config.Buffers.NATSBytes)); err != nil {
		return errors.Join(err, sub.Unsubscribe())
	}
	f.mu.Lock()
	f.sub = sub
	f.mu.Unlock()
	if err := f.hub.nc.FlushWithContext(ctx); err != nil {
		return err
	}
	word, _, err := f.lastThrough(ctx, time.Now()) // what is stored behind that comes over sub
	if err != nil {
		return err
	}
	last := word.last
	if last.Log != f.hub.logOf(f.shard) {
		f.hub.remade(f.shard, last.Log) // nobody has noticed: it had no open feeds
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.logID.Store(uint64(last.Log)) // with the head: resume must not begin at 0
	f.chain.head, f.chain.verified = last.Sequence, word.through
	if last.Sequence == 0 { // what there may have been is forgotten
		last.Sequence = word.through
	}
	f.ring.begin(last)
	f.lookSoon()
	f.drain()
	if f.chain.held || f.ask {
		f.chain.hold()
		f.startRepair()
	}
	return nil
}

// attach puts a socket at its place: into the ring if that holds everything from there
// on, else it has to be replayed.
func (f *Feed) attach(r *Reader, s Socket, filter Filter, at begin) {
	r.socket = s
	f.mu.Lock()
	defer f.mu.Unlock()
	if at.now || at.cursor.Log == f.log() {
		f.tellRemade(f.chain.head + 1) // it is for others than this socket
	}
	f.tracksMu.Lock()
	defer f.tracksMu.Unlock()
	t := f.trackOf(filter, r.packs)
	f.sockets++
	t.sockets++
	r.track = t
	var pos uint64
	ok := at.now
	if at.now {
		at.cursor = event.Cursor{Log: f.log(), Sequence: f.chain.head}
		if f.chain.head == 0 {
			at.cursor.Sequence = f.chain.known()
		}
		pos = t.position(t.ring.view().head)
	} else if at.entry != entryForgotten {
		pos, ok = f.locate(t, at.cursor)
	}
	r.place(at.cursor)
	if ok {
		r.state.Store(claimed)
		t.attach(r, pos)
		return
	}
	r.entry = at.entry
	r.state.Store(claimed | replaying)
	f.hub.stats.replays.Inc()
	f.replays.add(r, at.owner)
}

// locate gives the position in t behind the place c, if the ring and t have every event
// from there on. mu is held.
func (f *Feed) locate(t *track, c event.Cursor) (pos uint64, ok bool) {
	if c.Log == f.log() && c.Sequence > f.chain.known() {
		return 0, false // still to come, or nobody knows
	}
	pos, ok = t.ring.locate(c)
	if !ok || pos < t.start || t.ring.slipping(pos, f.hub.config.Buffers.FeedBytes) {
		return 0, false
	}
	return t.position(pos), true
}

// left notes that a socket is gone. A filtered track goes with its last one.
func (f *Feed) left(t *track) {
	f.tracksMu.Lock()
	defer f.tracksMu.Unlock()
	f.sockets--
	t.sockets--
	if t.sockets == 0 && !t.whole {
		delete(f.tracks, trackKey{t.filter, t.packed})
	}
	f.idle = f.hub.now()
	if t.packed {
		f.packed.sockets--
		f.packed.idle = f.idle
	}
}

// subDropped is the number of messages that the NATS client has dropped so far. mu is held.
func (f *Feed) subDropped() int {
	if f.sub == nil {
		return 0
	}
	n, err := f.sub.Dropped()
	if err != nil {
		return f.dropped // it is closed: the feed ends
	}
	return n
}

// receive takes one message from NATS. It is called by the subscription's goroutine.
func (f *Feed) receive(msg *nats.Msg) {
	m, err := parseMessage(msg)
	if err != nil {
		if f.beacon(msg.Header.Get(event.HeaderBeacon)) != nil {
			f.hub.stats.foreign.Inc() // a core publish into our subjects; it has no place in the log
		}
		return
	}
	if f.take(m, msg.Header.Get("Nats-Time-Stamp")) {
		// A new leader repeats messages; so does, as it were, a stream that was deleted
		// and made again, which nothing else tells.
		f.hub.suspect(f.shard)
	}
}

// take puts m, which was stored at that time, into the order, and says whether its sequence
// came again.
func (f *Feed) take(m message, stored string) (again bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	if m.sequence <= f.chain.head {
		return f.isOpen()
	}
	if f.isOpen() && !f.chain.next(m) && olderThan(f.log(), stored) {
		// It was on its way while the stream was made anew, most likely, and its sequence
		// says nothing. But the clocks of servers differ, so the leader decides.
		f.ask = true
		if !f.chain.held {
			f.hole()
		}
		return false
	}
	held := f.chain.held
	if f.chain.live(m) {
		f.apply(m)
		return false
	}
	if f.chain.held && !held {
		f.hub.stats.holes.Inc()
		f.startRepair()
	}
	return false
}

// olderThan says whether what was stored at that time came before the log was made.
func olderThan(log event.Log, stored string) bool {
	at, err := time.Parse(time.RFC3339Nano, stored)
	return err == nil && event.LogOf(at) < log
}

// isOpen says whether open has found out where "now" is. mu is held.
func (f *Feed) isOpen() bool { return f.logID.Load() != 0 }

// apply appends the next event in order. mu is held.
func (f *Feed) apply(m message) {
	if m.fault != nil {
		f.hub.stats.faults.Inc()
		f.hub.zap.Warn("event skipped", zap.String("application", f.application), zap.Error(m.fault))
		return
	}
	f.tellRemade(m.sequence)
	now := f.hub.now()
	c := event.Cursor{Log: f.log(), Sequence: m.sequence}
	from, to := f.ring.append(m.json, c, m.appended, now)
	f.hub.stats.events.Inc()
	f.trim(now)
	f.whole.wake()
	f.refer(m.labels, false, ref{from, int(to - from)})
	if f.packed.open { // last: nobody else waits for it
		f.refer(m.labels, true, f.pack(m.json, c, m.appended, now))
	}
}

// refer adds a frame to the tracks of the filters that its event passes, and wakes them.
// mu is held.
func (f *Feed) refer(l labels, packed bool, r ref) {
	if !l.hasChannel && !l.hasDevice {
		return
	}
	f.tracksMu.Lock()
	defer f.tracksMu.Unlock()
	if len(f.tracks) == 0 {
		return
	}
	l.filters(func(filter Filter) {
		if t := f.tracks[trackKey{filter, packed}]; t != nil {
			t.add(r)
			t.wake()
		}
	})
}

// applyGap tells every socket that events may be missing here. c is its place. mu is held.
func (f *Feed) applyGap(g event.Gap, c event.Cursor) {
	now := f.hub.now()
	g.Application, g.At = f.application, now
	f.hub.stats.gaps.WithLabelValues(g.Reason).Inc()
	f.hub.zap.Warn("events may be missing", zap.String("application", f.application),
		zap.String("reason", g.Reason), zap.Stringer("after", g.After), zap.Stringer("before", g.Before))
	json := g.JSON()
	from, to := f.ring.append(json, c, 0, now)
	f.trim(now)
	f.whole.wake()
	var inPacked ref
	if f.packed.open {
		inPacked = f.pack(json, c, 0, now)
	}
	f.tracksMu.Lock()
	defer f.tracksMu.Unlock()
	for _, t := range f.tracks {
		if t.packed {
			t.add(inPacked)
		} else {
			t.add(ref{from, int(to - from)})
		}
		t.wake()
	}
}

// tellRemade tells sockets that the log is another one, if they do not know yet, in which
// events go on at next. It says whether it did. mu is held.
func (f *Feed) tellRemade(next uint64) bool {
	old := f.remade
	if old == (event.Cursor{}) {
		return false
	}
	f.remade = event.Cursor{}
	before := event.Cursor{Log: f.log(), Sequence: next}
	f.applyGap(event.Gap{Reason: event.GapLog, After: old, Before: before}, event.Cursor{Log: f.log(), Sequence: next - 1})
	return true
}

// drain applies what waits and is in order. mu is held.
func (f *Feed) drain() {
	for {
		m, ok := f.chain.drain()
		if !ok {
			return
		}
		f.apply(m)
	}
}

// hold makes live messages wait until resume has read the stream.
func (f *Feed) hold() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.chain.hold()
	f.ask = true
	f.lookSoon()
}

// resume ends a hold: it reads what is missing, in the log that the stream is now.
func (f *Feed) resume(log event.Log) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || !f.isOpen() {
		return
	}
	if uint64(log) != f.logID.Load() {
		if f.remade == (event.Cursor{}) {
			f.remade = event.Cursor{Log: f.log(), Sequence: f.chain.head}
		}
		f.logID.Store(uint64(log))
		f.chain.restart()
		f.ask = true
	}
	f.readOnHeld()
}

// goOn ends a hold in the log that the feed is in.
func (f *Feed) goOn() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed && f.isOpen() {
		f.readOnHeld()
	}
}

// readOnHeld begins to read what is missing, if nobody does. mu is held.
func (f *Feed) readOnHeld() {
	if f.chain.held && !f.repairing {
		f.startRepair()
	}
}

// close ends the feed. Its sockets are gone, or the edge stops.
func (f *Feed) close() {
	f.mu.Lock()
	f.closed = true
	sub := f.sub
	f.chain.clear()
	f.mu.Unlock()
	if sub != nil {
		_ = sub.Unsubscribe() // fails only if the connection is closed, and then nothing comes
	}
	f.ring.close()
	f.packed.ring.close()
	f.hub.kept.forget(f)
}
