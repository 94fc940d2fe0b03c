package group

import (
	"cmp"
	"slices"
	"time"

	"canopy/shared/event"
)

// leave begins the end of a membership, or ends it.
func (r *rotation) leave(m *Member, how Departure, now time.Duration) {
	grace := how == Dismissed
	switch m.state {
	case joining, early:
		m.state = early
		if !grace {
			r.endEarly(m)
		}
		return
	case left:
		return
	case ready:
		r.exit(m, now)
	}
	if m.state != leaving && how >= Failed && !r.stopped {
		r.blame(m, how, now)
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

// endEarly ends a membership that began with no open socket.
func (r *rotation) endEarly(m *Member) {
	m.state = left
	r.done.ended = append(r.done.ended, m)
}

// end gives back what m has not acknowledged: to the other members, or to JetStream if
// there is none.
func (r *rotation) end(m *Member, now time.Duration) {
	if m.state == ready {
		r.exit(m, now)
	}
	r.conclude(m)
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

// giveBack has d go to the next members, before what nobody had yet, or be tried alone. What
// was tried too often is given up.
func (r *rotation) giveBack(d *delivery) {
	if d.void {
		return
	}
	if r.exhausted(d) {
		if d = r.giveUp(d); d == nil {
			return
		}
	}
	if d.reply == "" {
		r.say(*d.gap)
		r.notice.more(d.doubt)
		return
	}
	if d.suspect {
		i, _ := slices.BinarySearchFunc(r.suspects, d, func(a, b *delivery) int {
			return cmp.Or(cmp.Compare(a.failed, b.failed), cmp.Compare(a.seq, b.seq))
		})
		r.suspects = slices.Insert(r.suspects, i, d)
		return
	}
	i, _ := slices.BinarySearchFunc(r.back, d, func(a, b *delivery) int { return cmp.Compare(a.seq, b.seq) })
	r.back = slices.Insert(r.back, i, d)
}

// handBack gives everything that waits to JetStream, in order. What the log has forgotten
// stays, as long as there are members who may take it; else it is lost.
func (r *rotation) handBack() {
	for _, m := range slices.Clone(r.trials) {
		r.release(m)
	}
	list := slices.Concat(r.back, r.fresh.all(), r.suspects)
	slices.SortFunc(list, func(a, b *delivery) int { return cmp.Compare(a.seq, b.seq) })
	r.back, r.fresh, r.suspects = nil, queue[*delivery]{}, nil
	stay := r.members > 0 && !r.stopped
	for _, d := range list {
		switch {
		case d.lease != forever:
			r.refuse(d)
			r.ceded.add(d.seq)
			r.forget(d)
		case stay:
			r.giveBack(d)
		default:
			r.done.lost = append(r.done.lost, d.seq)
			r.forget(d)
		}
	}
	if !stay {
		r.loseNotice()
	}
}

// refuse hands an event to JetStream, with what other edges must know of it. It rests there
// as it would have here.
func (r *rotation) refuse(d *delivery) {
	if d.suspect {
		r.confide(d)
	}
	if d.failed > 0 {
		r.done.later = append(r.done.later, d.reply)
	} else {
		r.done.naks = append(r.done.naks, d.reply)
	}
}

// loseNotice has other edges say what nobody is left for here. It is false if that is nothing.
func (r *rotation) loseNotice() bool {
	d := r.notice
	if d == nil || d.gap.Reason != event.GapRetention {
		return false
	}
	r.done.lost = append(r.done.lost, d.gap.After.Sequence+1)
	r.notice = nil
	return true
}

// restart forgets everything: the stream is another one, in which sequences begin anew.
func (r *rotation) restart() {
	for _, d := range r.held {
		r.forget(d)
		d.void = true
	}
	r.back, r.fresh, r.suspects, r.notice, r.ceded = nil, queue[*delivery]{}, nil, nil, ceded{}
	r.done.lost, r.done.ceded = nil, nil
	for _, m := range slices.Clone(r.trials) {
		if !m.tries() {
			r.conclude(m)
		}
	}
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
