package group

import (
	"cmp"
	"slices"
	"time"
)

// leave begins the end of a membership, or ends it.
func (r *rotation) leave(m *Member, grace bool, now time.Duration) {
	switch m.state {
	case joining:
		m.state = left
		r.done.ended = append(r.done.ended, m)
		return
	case left:
		return
	case ready:
		r.exit(m, now)
	}
	if m.state != leaving {
		m.state = leaving
		m.leaveBy = now + leaveGrace
		m.askNow = true
		r.touch(m)
		r.attend(m)
	}
	if !grace || m.flight.len() == 0 {
		r.end(m, now)
	}
}

// end gives back what m has not acknowledged: to the other members, or to JetStream if
// there is none.
func (r *rotation) end(m *Member, now time.Duration) {
	if m.state == ready {
		r.exit(m, now)
	}
	m.state = left
	r.members--
	for _, d := range m.flight.all() {
		r.giveBack(d)
	}
	m.flight, m.pings, m.bytes = queue[*delivery]{}, queue[ping]{}, 0
	r.done.ended = append(r.done.ended, m)
	if r.members == 0 || r.stopped {
		r.handBack()
	}
}

// giveBack has d go to the next members, before what nobody had yet.
func (r *rotation) giveBack(d *delivery) {
	if d.void {
		return
	}
	if d.reply == "" {
		r.notice = d
		return
	}
	i, _ := slices.BinarySearchFunc(r.back, d, func(a, b *delivery) int { return cmp.Compare(a.seq, b.seq) })
	r.back = slices.Insert(r.back, i, d)
}

// handBack gives everything that waits to JetStream, in order.
func (r *rotation) handBack() {
	list := slices.Concat(r.back, r.fresh.all())
	slices.SortFunc(list, func(a, b *delivery) int { return cmp.Compare(a.seq, b.seq) })
	for _, d := range list {
		if d.lease == forever && r.gone == 0 {
			r.gone = d.seq
		}
		r.done.naks = append(r.done.naks, d.reply)
		r.forget(d)
	}
	r.back, r.fresh = nil, queue[*delivery]{}
}

// restart forgets everything: the stream is another one, in which sequences begin anew.
func (r *rotation) restart() {
	for _, d := range r.held {
		r.forget(d)
		d.void = true
	}
	r.back, r.fresh, r.notice = nil, queue[*delivery]{}, nil
}

// stop gives nothing more out. What members have they may acknowledge.
func (r *rotation) stop() {
	r.stopped, r.keep = true, false
	r.handBack()
	for _, m := range r.busy {
		m.askNow = true
		r.touch(m)
	}
}
