package publish

import (
	"math"
	"time"
)

// account is what ingest knows of the bytes that one application holds in its stream, from
// acknowledgements and from what the stream was asked. The stream lets an application's
// oldest events go first, whatever the reason, so its number of events says how much of what
// is known here is left.
//
// All methods need the lane's lock.
type account struct {
	application string
	subject     string

	proven  run    // what the stream was seen to hold up to sequence through; oldest
	own     run    // what it has acknowledged to us since
	batch   run    // likewise, in the batch of attempt, which is still open
	attempt uint64 // 0: no batch is open

	through uint64 // 0: nothing is proven
	strange uint64 // the lane's count of strangers when it was proven
	total   int64  // bytes of own events while nothing was proven
	proof   *proof // of everything: to be made, or taken over by the next audit
	paid    int64  // bytes of own events for which older ones went that nobody has counted

	newer     int64 // own events behind the place that the last audit has asked about
	rest      int64 // bytes that it held after the last audit
	grown     int64 // bytes of own events since that began
	due       int64 // with how many the next one is due
	auditing  bool
	open      int64     // bytes of own events since that was so
	seen      time.Time // when the last own event was stored
	tries     int       // audits that have failed in a row
	notBefore time.Time // the next one, after a failure

	held      bool // its events wait for the audit
	heldUntil time.Time
}

// bytes that the application is known to hold.
func (a *account) bytes() int64 { return a.proven.bytes + a.own.bytes + a.batch.bytes }

func (a *account) events() int64 { return a.proven.events + a.own.events + a.batch.events }

// busy says whether somebody holds on to a.
func (a *account) busy() bool { return a.auditing || a.attempt != 0 || a.proof != nil }

// stored counts an event of ours: in the open batch, at a place, or else at a sequence.
func (a *account) stored(bytes, grain int64, place uint64) {
	to := &a.own
	if a.attempt != 0 {
		to = &a.batch
	}
	to.add(part{1, bytes, place}, grain)
	a.newer++
	if a.proof != nil {
		a.proof.newer++
	}
	a.grown += bytes
	if a.through == 0 {
		a.total += bytes
	}
	if a.auditing {
		a.open += bytes
	}
}

// ended notes that the open batch has ended. Sequence is that of its event number count, and
// all of them follow upon each other if contiguous. Otherwise only the last place is known;
// none is if sequence is 0.
func (a *account) ended(sequence, count uint64, contiguous bool, grain int64) {
	for i, p := range a.batch.parts {
		switch {
		case contiguous:
			p.last = sequence - (count - p.last)
		case i == len(a.batch.parts)-1:
			p.last = sequence
		default:
			p.last = 0
		}
		a.own.add(p, grain)
	}
	a.batch, a.attempt = run{parts: a.batch.parts[:0]}, 0
}

// begin notes that what has a known place by now is asked about.
func (a *account) begin() (grown int64) {
	grown, a.grown, a.newer = a.grown, 0, a.batch.events
	return grown
}

// holds takes the stream's word that it holds so many of the application's events, and
// gives an estimate of their bytes. Events that we do not know are taken to be like ours:
// with several publishers the one with the largest events estimates no less than there is.
func (a *account) holds(events int64) int64 {
	if known := a.events() - a.newer; known > events {
		a.drop(known - events) // the stream has let them go; it may lack newer ones
	}
	known, bytes := a.events(), a.bytes()
	if known == 0 || events <= known {
		return bytes
	}
	like, size := a.own.events+a.batch.events, a.own.bytes+a.batch.bytes
	if like == 0 {
		like, size = known, bytes
	}
	return bytes + int64(float64(events-known)*float64(size)/float64(like))
}

// drop forgets the oldest events.
func (a *account) drop(events int64) {
	events -= a.proven.drop(events)
	events -= a.own.drop(events)
	a.batch.drop(events)
}

// proof is what an application's events are found to be when they are counted.
type proof struct {
	to      uint64 // the sequence up to which ours had been acknowledged when it began
	strange uint64 // the lane's count of strangers then
	newer   int64  // own events since

	done    bool
	failed  bool
	found   run
	through uint64 // sequence of the last one found
}

// prove takes what was found behind the last proof, up to a new place, for what we know of
// that. What came since the proof began is behind it.
func (a *account) prove(p *proof, grain int64) {
	for _, part := range p.found.parts {
		a.proven.add(part, grain)
	}
	a.own.drop(a.own.events + a.batch.events - p.newer)
	a.through, a.strange, a.total, a.paid = max(p.through, a.through, 1), p.strange, 0, 0
}

// takeProof takes over a proof that is done, and gives it, nil if there is none.
func (a *account) takeProof(grain int64) *proof {
	p := a.proof
	if p == nil || !p.done {
		return nil
	}
	if a.proof = nil; p.failed {
		return nil
	}
	a.prove(p, grain)
	return p
}

// pays says how many events to keep of an application of which the stream holds so many and
// most are of unknown size, because they are of before and have not been counted yet. They
// held the share at most, target bytes, so as large a part of them goes as what was published
// since is of that: then all is no more than the share, whatever sizes they have.
func (a *account) pays(events, target int64) (keep int64) {
	known, bytes := a.events(), a.bytes()
	unknown := max(events-known, 0)
	a.paid = min(a.paid, bytes) // some of ours have gone as well
	if bytes >= target {
		return max(known, 1)
	}
	return max(known+int64(float64(unknown)*float64(target-bytes)/float64(target-a.paid)), 1)
}

// unproven forgets the last proof, so that everything is counted again.
func (a *account) unproven() {
	a.own.drop(a.own.events + a.batch.events - a.newer)
	a.proven, a.through, a.paid = run{}, 0, 0
	a.total = math.MaxInt64 / 2 // at once
}

// excess is what the application holds beyond its newest events of at least target bytes:
// so many events, up to a sequence.
func (a *account) excess(target int64) (events int64, upTo uint64) {
	bytes := a.bytes()
	var passed int64
	for _, r := range []*run{&a.proven, &a.own} {
		for _, p := range r.parts {
			if bytes -= p.bytes; bytes < target {
				return events, upTo
			}
			if passed += p.events; p.last != 0 {
				events, upTo = passed, p.last
			}
		}
	}
	return events, upTo
}

// run is a number of events in order, in parts of about a grain, so that it costs little
// memory however many they are.
type run struct {
	parts         []part // oldest first
	events, bytes int64
}

type part struct {
	events, bytes int64
	last          uint64 // sequence of the last of them, or place in an open batch; 0: not known
}

// add appends p, to the last part if that is not a grain yet.
func (r *run) add(p part, grain int64) {
	r.events += p.events
	r.bytes += p.bytes
	if n := len(r.parts); n > 0 && r.parts[n-1].bytes < grain {
		last := &r.parts[n-1]
		last.events, last.bytes, last.last = last.events+p.events, last.bytes+p.bytes, p.last
		return
	}
	r.parts = append(r.parts, p)
}

// drop takes events away from the front, and says how many.
func (r *run) drop(events int64) (dropped int64) {
	for len(r.parts) > 0 && events > dropped {
		p := &r.parts[0]
		if left := events - dropped; left < p.events {
			bytes := int64(float64(p.bytes) * float64(left) / float64(p.events))
			p.events, p.bytes = p.events-left, p.bytes-bytes
			r.events, r.bytes = r.events-left, r.bytes-bytes
			return events
		}
		dropped += p.events
		r.events, r.bytes = r.events-p.events, r.bytes-p.bytes
		r.parts = r.parts[1:]
	}
	if len(r.parts) == 0 {
		r.parts = nil
	}
	return dropped
}
