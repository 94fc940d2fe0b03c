package group

import (
	"math"
	"slices"
	"time"

	"canopy/shared/event"
)

const (
	// A write carries at most so many events, and no further one above so many bytes.
	writeEvents = 64
	writeBytes  = 64 << 10

	// memberBytes bounds what one member has and has not acknowledged, but for one event.
	memberBytes = 1 << 20

	// askAfter is how long events may be out before a Ping asks for them, if an older
	// Ping is not answered.
	askAfter = 100 * time.Millisecond

	// slowAfter is how long the rotation waits for a member that owes an answer.
	slowAfter = 250 * time.Millisecond

	// silentAfter is when a member that does not answer loses what it was given. It lies
	// before the end of the time in which JetStream wants an acknowledgement.
	silentAfter = 10 * time.Second

	// leaveGrace is how long a member that leaves may acknowledge.
	leaveGrace = 100 * time.Millisecond

	// parkedFor is how long events wait when no member is ready, before others get them.
	// For so long the last subscription stays: what JetStream has sent when nobody is
	// subscribed any more it sends again only when the time to acknowledge is over.
	parkedFor = time.Second

	// firstWindow is how many events a member gets before it has acknowledged any. Each
	// acknowledgement doubles it.
	firstWindow = 32

	// minWindow is what a member of a very large group may have.
	minWindow = 4

	// leaseMargin is the part of the lease's end in which nothing is given out.
	leaseMargin = 2 * time.Second

	// forever is beyond the end of any process.
	forever = time.Duration(math.MaxInt64 / 2)
)

// limits bound what a group has on this edge.
type limits struct {
	window  int           // events that one member has not acknowledged
	group   int           // events of the group that no member has acknowledged, on all edges
	share   int64         // bytes of events that one group may hold
	tries   int           // of an event alone that fail before it is set aside, 0 for any number
	ackWait time.Duration // after which JetStream gives an event to somebody else
}

// delivery is one event on its way to a member.
type delivery struct {
	seq      uint64     // in the stream
	stored   int64      // when the stream took it: tells events of the same sequence in two streams apart
	data     []byte     // JSON as the log holds it
	appended int64      // to Kafka, ms since 1970, 0 if unknown
	reply    string     // where it is acknowledged; empty for a notice
	gap      *event.Gap // what a notice of the edge's own says, or what the data says in place of an event that is set aside; else nil
	ping     uint64     // the Ping that asks for it, 0 as long as none was sent
	given    bool       // some member may have had it
	void     bool       // its stream is gone
	came     time.Duration
	doubt

	// lease is when JetStream may give it to somebody else: after it, the edge gives it
	// to nobody. sure is the same without renewals, which may have been lost.
	lease, sure time.Duration
}

// rotation decides who gets what, when to ask, and what is acknowledged. It is pure: time
// comes in as an argument, and what is to be done goes out in done. Times are durations
// since some beginning.
//
// The events of a group on this edge are in one of five places: back, fresh, suspects, the
// flight of a member, or kept for one as its trial; held has them all.
type rotation struct {
	limits   limits
	room     *room
	describe func(*delivery) event.Gap // what tells of an event that is set aside

	turn    *Member // of the ring of ready members
	ready   int
	members int  // that have opened and not left
	stopped bool // the edge drains: nothing more is given out

	held   map[uint64]*delivery
	back   []*delivery      // given back by members, in order; they go first
	fresh  queue[*delivery] // not given to anybody yet
	notice *delivery        // what the edge itself has to say; it goes before all
	parked time.Duration    // since when nobody is ready
	keep   bool             // nobody is ready, and the last subscription stays for a moment
	bytes  int64            // of held
	renew  time.Duration    // when the next lease is to be renewed
	ceded  ceded
	alone  bool // a member is ready again, after there was no subscription

	suspects []*delivery // given back by members that failed; those that failed least often first, these in order
	trials   []*Member   // that are given one event alone, or are kept for that

	busy  []*Member // that have something in flight, or leave
	dirty []*Member // that have something to be written
	stats tally
	done  outcome
}

// tally counts what happened, for tests and for the debug page.
type tally struct {
	given, repeated, expired, returned uint64
}

func newRotation(l limits, r *room) rotation { return rotation{limits: l, room: r} }

// take accepts an event, or refuses it if nobody could get it or there is no room.
func (r *rotation) take(d *delivery, now time.Duration) {
	d.came, d.lease, d.sure = now, now+r.limits.ackWait, now+r.limits.ackWait
	old := r.held[d.seq]
	if old != nil && old.stored != d.stored {
		r.restart() // another edge has found that the stream was made anew
		old = nil
	}
	if old != nil {
		// JetStream gave up waiting, or has a new leader that does not know: it is here.
		old.reply = d.reply
		if old.lease != forever {
			old.lease, old.sure = d.lease, d.sure
		}
		r.stats.repeated++
		return
	}
	if r.exhausted(d) { // another edge has found that, and had nobody to tell
		d = r.setAside(d)
	}
	switch {
	case r.stopped || r.members == 0 && !r.keep:
		r.done.naks = append(r.done.naks, d.reply)
		r.ceded.add(d.seq)
		return
	case r.bytes > 0 && r.bytes+int64(len(d.data)) > r.limits.share, !r.room.take(len(d.data)):
		r.done.later = append(r.done.later, d.reply)
		r.ceded.add(d.seq)
		return
	}
	if r.held == nil {
		r.held = map[uint64]*delivery{}
	}
	if len(r.held) == 0 {
		r.renew = now + r.limits.ackWait/2
	}
	r.held[d.seq] = d
	r.ceded.remove(d.seq)
	r.bytes += int64(len(d.data))
	if d.suspect {
		r.giveBack(d)
	} else {
		r.fresh.push(d)
	}
}

// own says whether an event is here. If so, the log has forgotten it, and it is nowhere else:
// it is given out however long that takes, and handing it back is losing it.
func (r *rotation) own(seq uint64) bool {
	d := r.held[seq]
	if d != nil {
		d.lease, d.sure = forever, forever
	}
	return d != nil
}

// ownBefore owns all events here before a sequence.
func (r *rotation) ownBefore(oldest uint64) {
	for seq := range r.held {
		if seq < oldest {
			r.own(seq)
		}
	}
}

// say has a notice given to the next member whose turn it is, with what the one before says
// if nobody has had that.
func (r *rotation) say(gap event.Gap) {
	var against doubt
	if r.notice != nil {
		gap, against = merge(*r.notice.gap, gap), r.notice.doubt
	}
	r.notice = &delivery{seq: gap.Before.Sequence - 1, data: gap.JSON(), gap: &gap, doubt: against}
}

// merge gives a gap for two that nobody has been told of.
func merge(a, b event.Gap) event.Gap {
	if a.Before.Log != b.Before.Log {
		return b // it says that the log is another one
	}
	if a.Before.Sequence > b.Before.Sequence {
		b.Before = a.Before
	}
	switch {
	case a.Reason == event.GapLog || b.Reason == event.GapLog:
		b.Reason, b.After = event.GapLog, event.Cursor{}
	case a.After.Sequence < b.After.Sequence:
		b.After = a.After
	}
	return b
}

// assign gives out what waits, in strict rotation: it stops at a member that can take
// nothing now, but for those on trial. With over no member can, since too many bytes wait for
// stalled sockets.
func (r *rotation) assign(now time.Duration, over bool) {
	if !over && !r.stopped {
		r.try(now)
	}
	for passed := 0; r.turn != nil && passed < r.ready && !over && !r.stopped; {
		m := r.turn
		if m.trial != nil {
			r.turn, passed = m.next, passed+1
			continue
		}
		if !r.takes(m) {
			r.attend(m) // if that lasts, it loses its turn
			break
		}
		d := r.next(now)
		if d == nil {
			break
		}
		r.give(m, d, now)
		r.turn, passed = m.next, 0
	}
	for _, m := range r.dirty {
		r.flush(m, now)
	}
	r.dirty = r.dirty[:0]
}

// takes says whether m can be given one more event.
func (r *rotation) takes(m *Member) bool {
	if r.full(m) {
		return false
	}
	if n := len(m.out); n > 0 {
		return n < writeEvents && m.outBytes < writeBytes
	}
	return m.socket.Owed() == 0
}

// full says whether m has all that it may have and not have acknowledged: less before it
// has shown that it answers, and so little of the group's that members that are stuck
// leave something to the others.
func (r *rotation) full(m *Member) bool {
	fair := max(minWindow, r.limits.group/(2*r.members))
	return m.flight.len() >= min(r.limits.window, fair, m.window) || m.bytes >= memberBytes
}

// next takes the event that goes out next, nil if none waits.
func (r *rotation) next(now time.Duration) *delivery {
	if d := r.notice; d != nil && !d.suspect {
		r.notice = nil
		return d
	}
	for {
		var d *delivery
		switch {
		case len(r.back) > 0:
			d = r.back[0]
			r.back = slices.Delete(r.back, 0, 1)
		case r.fresh.len() > 0:
			d = r.fresh.pop()
		default:
			return nil
		}
		switch {
		case r.lapsed(d, now):
			r.expire(d)
		case d.suspect:
			r.giveBack(d)
		default:
			return d
		}
	}
}

// lapsed says whether JetStream may give an event to somebody else.
func (r *rotation) lapsed(d *delivery, now time.Duration) bool {
	return d.reply != "" && now >= d.lease-leaseMargin
}

// expire leaves an event to JetStream, which will give it to somebody, perhaps to us.
func (r *rotation) expire(d *delivery) {
	r.ceded.add(d.seq)
	r.forget(d)
	r.stats.expired++
}

// forget drops an event that this edge has no more to do with.
func (r *rotation) forget(d *delivery) {
	if d.reply == "" || d.void {
		return
	}
	delete(r.held, d.seq)
	r.bytes -= int64(len(d.data))
	r.room.give(len(d.data))
}

func (r *rotation) give(m *Member, d *delivery, now time.Duration) {
	r.stats.given++
	if d.given {
		r.stats.returned++
		r.done.repeated++
	}
	d.given, d.ping = true, 0
	m.flight.push(d)
	m.bytes += len(d.data)
	m.out = append(m.out, d)
	m.outBytes += len(d.data)
	if m.unasked == 0 {
		m.askedFor = now
	}
	m.unasked++
	r.touch(m)
	r.attend(m)
}

// touch has m's events written.
func (r *rotation) touch(m *Member) {
	if !m.dirty {
		m.dirty = true
		r.dirty = append(r.dirty, m)
	}
}

// attend has the clock look at m.
func (r *rotation) attend(m *Member) {
	if !m.busy {
		m.busy = true
		r.busy = append(r.busy, m)
	}
}

// flush makes the write of what m was given. A Ping goes with it, unless an older one is
// not answered and there is no hurry.
func (r *rotation) flush(m *Member, now time.Duration) {
	m.dirty = false
	if m.state == left {
		m.out = nil
		return
	}
	full := r.full(m)
	bare := m.trial != nil && !m.answered && m.flight.len() == 0 && m.pings.len() == 0
	var asked uint64
	if m.unasked > 0 && (m.pings.len() == 0 || m.unasked >= writeEvents || full || m.askNow) || bare {
		m.counter++
		asked = m.counter
		m.pings.push(ping{asked, now})
		flight := m.flight.all()
		for _, d := range flight[len(flight)-m.unasked:] {
			d.ping = asked
		}
		m.unasked = 0
	}
	m.askNow = false
	if len(m.out) == 0 && asked == 0 {
		return
	}
	r.done.add(m, m.out, asked)
	clear(m.out)
	m.out, m.outBytes = m.out[:0], 0
	if cap(m.out) > keepItems {
		m.out = nil
	}
}

// pong acknowledges everything that m was asked for up to the Ping of this counter.
func (r *rotation) pong(m *Member, counter uint64, now time.Duration) {
	if m.state == left || counter > m.counter || m.pings.len() == 0 || counter < m.pings.front().counter {
		return
	}
	for m.pings.len() > 0 && m.pings.front().counter <= counter {
		m.pings.pop()
	}
	for m.flight.len() > 0 {
		d := *m.flight.front()
		if d.ping == 0 || d.ping > counter {
			break
		}
		m.flight.pop()
		m.bytes -= len(d.data)
		if d == m.trial {
			r.conclude(m)
		}
		r.forget(d)
		if d.gap != nil && d.reply == "" {
			r.done.told = append(r.done.told, *d.gap)
		}
		if d.reply != "" && !d.void { // a new stream has another event with the sequence of a void one
			r.done.acks = append(r.done.acks, d.reply)
		}
	}
	m.heard, m.answered = now, true
	m.window = min(2*m.window, r.limits.window)
	switch {
	case m.state == slow && m.stalled == 0:
		r.reenter(m)
	case m.state == leaving && m.flight.len() == 0:
		r.end(m, now)
	}
}

// subscriptions is the number of queue subscriptions that this edge is to have.
func (r *rotation) subscriptions() int {
	switch {
	case r.stopped:
		return 0
	case r.ready == 0 && r.keep:
		return 1
	}
	return r.ready
}
