package group

import "time"

// tickEvery is the step of the clock for groups that wait for something.
const tickEvery = 25 * time.Millisecond

// needsClock says whether time changes anything.
func (r *rotation) needsClock() bool {
	return len(r.busy) > 0 || len(r.held) > 0 || r.keep || r.notice != nil && r.notice.suspect
}

// tick does what is due: Pings, members that are slow, silent or leave, events that wait
// for nobody, and leases. Without a connection no lease can be renewed.
func (r *rotation) tick(now time.Duration, connected bool) {
	kept := r.busy[:0]
	for _, m := range r.busy {
		r.look(m, now)
		if m.busy = m.waits(); m.busy {
			kept = append(kept, m)
		}
	}
	clear(r.busy[len(kept):])
	r.busy = kept
	if len(kept) == 0 && cap(kept) > keepItems {
		r.busy = nil
	}
	if r.ready == 0 && now-r.parked >= parkedFor {
		r.keep = false
		r.handBack()
	}
	switch {
	case !connected:
		for _, d := range r.held {
			d.lease = d.sure
		}
	case len(r.held) > 0 && now >= r.renew:
		r.renewLeases(now)
	}
}

// waits says whether time changes anything for m.
func (m *Member) waits() bool {
	return m.state != left && (m.flight.len() > 0 || m.state == leaving || m.state == slow || m.stalled != 0 || m.trial != nil)
}

// look does what is due for one member.
func (r *rotation) look(m *Member, now time.Duration) {
	if m.state == left {
		return
	}
	if m.unasked > 0 && now-m.askedFor >= askAfter {
		m.askNow = true
		r.touch(m)
	}
	switch owed := m.socket.Owed() > 0; {
	case !owed:
		m.stalled = 0
	case m.stalled == 0:
		m.stalled = now
	}
	// It owes an answer to a Ping, or reads nothing: not even Pongs to Pings of its own.
	silence := time.Duration(0)
	if m.pings.len() > 0 {
		silence = now - max(m.pings.front().at, m.heard)
	}
	if m.stalled != 0 {
		silence = max(silence, now-m.stalled)
	}
	switch {
	case m.state == leaving && now >= m.leaveBy:
		r.end(m, now)
	case silence >= silentAfter:
		r.done.silent = append(r.done.silent, m)
		r.leave(m, Failed, now)
	case silence >= slowAfter && m.state == ready:
		r.exit(m, now)
		m.state, m.window = slow, min(firstWindow, m.window)
		r.done.slowed++
	case silence < slowAfter && m.state == slow:
		r.reenter(m)
	}
}

// renewLeases tells JetStream that what the edge holds is in progress, when half of its
// time is over.
func (r *rotation) renewLeases(now time.Duration) {
	next := now + r.limits.ackWait/2
	for _, d := range r.held {
		left := d.lease - now
		if left <= leaseMargin {
			continue // too late: somebody else may have it
		}
		if left <= r.limits.ackWait/2 {
			r.done.progress = append(r.done.progress, d.reply)
			d.lease = now + r.limits.ackWait
		}
		next = min(next, d.lease-r.limits.ackWait/2)
	}
	r.renew = max(next, now+tickEvery)
}
