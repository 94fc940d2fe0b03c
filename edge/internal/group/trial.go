package group

import (
	"cmp"
	"slices"
	"time"

	"canopy/shared/event"
)

// What a member had and had not acknowledged when its client failed is suspect: one of these
// events may be why, and the others were only beside it. So each is tried alone, at a member
// that has just answered a Ping and has nothing else. Only a trial that fails counts, and after
// limits.tries of them the event is set aside: a gap event takes its place.
//
// Trials take half of the members at most, and an event rests after each, so that the others go on.

// Departure says how a member leaves.
type Departure int

const (
	// Dismissed is closed by the edge: it has a moment to acknowledge what it has.
	Dismissed Departure = iota
	// Gone has left of its own will, which says nothing about what it had.
	Gone
	// Failed has closed for an error, vanished, or answered nothing.
	Failed
	// TooBig has closed because a message was larger than it takes.
	TooBig
)

const (
	// restAfterTrial is how long an event rests whose trial has failed: its member may come back
	// meanwhile, and others have their turn.
	restAfterTrial = time.Second

	// trialShare is the part of the members that may be in trials at a time of events that have
	// failed in one. Those that were only beside such an event wait for none that puts its member
	// to sleep: of those that are not slow as large a part may try them.
	trialShare = 2
)

// doubt is what is held against an event.
type doubt struct {
	suspect bool          // a member had it that failed
	failed  int           // trials of it that failed
	rest    time.Duration // no trial of it begins before
}

// more raises the doubt to what somebody else knows.
func (d *doubt) more(other doubt) {
	d.suspect = d.suspect || other.suspect
	d.failed, d.rest = max(d.failed, other.failed), max(d.rest, other.rest)
}

// try begins trials, and gives members on trial their event when they have nothing else and
// have shown that they answer.
func (r *rotation) try(now time.Duration) {
	for {
		m := r.untried()
		if m == nil {
			break
		}
		failed := len(r.trials) < max(1, r.members/trialShare)
		if !failed && r.underTrial() >= max(1, r.ready/trialShare) {
			break
		}
		d := r.nextSuspect(now, failed)
		if d == nil {
			break
		}
		m.trial, m.answered = d, false
		r.trials = append(r.trials, m)
		r.attend(m)
	}
	for i := len(r.trials) - 1; i >= 0; i-- { // from the end, since one may go
		switch m := r.trials[i]; {
		case m.state != ready || m.flight.len() > 0 || m.socket.Owed() > 0:
		case !m.answered:
			r.touch(m) // which sends a Ping
		case r.lapsed(m.trial, now):
			d := m.trial
			r.conclude(m)
			r.expire(d)
		default:
			r.give(m, m.trial, now)
		}
	}
}

// underTrial is the number of trials of members that are not slow.
func (r *rotation) underTrial() (n int) {
	for _, m := range r.trials {
		if m.state == ready {
			n++
		}
	}
	return n
}

// untried is the next member in turn that is in no trial, nil if there is none.
func (r *rotation) untried() *Member {
	m := r.turn
	for range r.ready {
		if m.trial == nil {
			return m
		}
		m = m.next
	}
	return nil
}

// nextSuspect takes the event that is tried next, nil if none is due: those that have failed
// least go first. Unless failed says so, it takes none that has failed in a trial.
func (r *rotation) nextSuspect(now time.Duration, failed bool) *delivery {
	if d := r.notice; d != nil && d.suspect && now >= d.rest && (failed || d.failed == 0) {
		r.notice = nil
		return d
	}
	for i := 0; i < len(r.suspects); {
		d := r.suspects[i]
		if now < d.rest || d.failed > 0 && !failed {
			i++
			continue
		}
		r.suspects = slices.Delete(r.suspects, i, i+1)
		if !r.lapsed(d, now) {
			return d
		}
		r.expire(d)
	}
	return nil
}

// tries says whether m has been given the event that it is kept for.
func (m *Member) tries() bool {
	return m.trial != nil && m.flight.len() > 0 && *m.flight.front() == m.trial
}

// conclude ends m's trial.
func (r *rotation) conclude(m *Member) {
	m.trial = nil
	r.trials = slices.DeleteFunc(r.trials, func(other *Member) bool { return other == m })
}

// release ends m's trial if it has not begun: another member is to have it.
func (r *rotation) release(m *Member) {
	if d := m.trial; d != nil && !m.tries() {
		r.conclude(m)
		r.giveBack(d)
	}
}

// blame notes that m's client has failed, which one of the events that it had may be why.
func (r *rotation) blame(m *Member, how Departure, now time.Duration) {
	list := m.flight.all()
	list = list[:len(list)-len(m.out)] // it has seen nothing of what was not written
	if how == TooBig && len(list) > 0 {
		// If any was too big, the largest was.
		list = []*delivery{slices.MaxFunc(list, func(a, b *delivery) int { return cmp.Compare(len(a.data), len(b.data)) })}
	}
	alone := m.tries()
	for _, d := range list {
		d.suspect = true
		if alone {
			d.failed, d.rest = d.failed+1, now+restAfterTrial
			r.confide(d)
		}
	}
}

// confide has other edges know what is held against an event.
func (r *rotation) confide(d *delivery) {
	if d.reply != "" && d.gap == nil && !d.void {
		r.done.failures = append(r.done.failures, failure{d.seq, d.stored, d.failed})
	}
}

// learn takes what another edge holds against an event.
func (r *rotation) learn(f failure) {
	if d := r.held[f.Sequence]; d != nil && d.stored == f.Stored && d.gap == nil {
		d.more(doubt{suspect: true, failed: f.Failed})
	}
}

// exhausted says whether an event has been tried as often as it may be.
func (r *rotation) exhausted(d *delivery) bool {
	return r.limits.tries > 0 && d.failed >= r.limits.tries
}

// setAside makes the gap event that takes an event's place, and is given and acknowledged like
// it. The event itself stays as it is, since a worker may be writing it.
func (r *rotation) setAside(d *delivery) *delivery {
	gap := r.describe(d)
	instead := *d
	instead.gap, instead.data, instead.appended, instead.given, instead.doubt = &gap, gap.JSON(), 0, false, doubt{}
	return &instead
}

// resize keeps account of an event here whose data is another one.
func (r *rotation) resize(from, to int) {
	r.bytes += int64(to - from)
	r.room.give(from - to)
}

// giveUp goes on without an event that was tried as often as it may be. It gives what takes its
// place, nil if nothing does.
func (r *rotation) giveUp(d *delivery) *delivery {
	if d.gap == nil {
		instead := r.setAside(d)
		r.held[d.seq] = instead
		r.resize(len(d.data), len(instead.data))
		r.done.aside = append(r.done.aside, *instead.gap)
		return instead
	}
	// Not even the gap event can be given to anybody.
	r.done.untold = append(r.done.untold, *d.gap)
	if d.reply == "" {
		r.done.told = append(r.done.told, *d.gap)
		return nil
	}
	r.done.acks = append(r.done.acks, d.reply)
	r.forget(d)
	return nil
}

// describeGap is the gap event for an event that is set aside.
func describeGap(application string, log event.Log, d *delivery) event.Gap {
	at := func(seq uint64) event.Cursor { return event.Cursor{Log: log, Sequence: seq} }
	return event.Gap{
		Application: application, Reason: event.GapUndeliverable, At: time.Now(),
		After: at(d.seq - 1), Before: at(d.seq + 1), Event: at(d.seq), Bytes: len(d.data) + event.CursorSuffixLen,
	}
}
