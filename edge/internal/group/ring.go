package group

import "time"

// open lets m have its turn, as the last one of this round.
func (r *rotation) open(m *Member) {
	switch m.state {
	case joining:
		r.members++
		r.enter(m)
	case early:
		r.endEarly(m)
	}
}

// enter puts m into the ring.
func (r *rotation) enter(m *Member) {
	m.state = ready
	r.ready++
	r.keep = false
	if r.turn == nil {
		m.next, m.prev = m, m
		r.turn = m
		return
	}
	m.next, m.prev = r.turn, r.turn.prev
	m.prev.next, m.next.prev = m, m
}

// reenter puts a member that was slow into the ring.
func (r *rotation) reenter(m *Member) {
	r.alone = r.alone || r.ready == 0 && !r.keep
	r.enter(m)
}

// exit takes m out of the ring.
func (r *rotation) exit(m *Member, now time.Duration) {
	r.release(m)
	r.ready--
	if m.next == m {
		r.turn = nil
		r.parked, r.keep = now, !r.stopped
	} else {
		m.prev.next, m.next.prev = m.next, m.prev
		if r.turn == m {
			r.turn = m.next
		}
	}
	m.next, m.prev = nil, nil
}
