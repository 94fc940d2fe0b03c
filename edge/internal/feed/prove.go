package feed

import (
	"context"
	"errors"
	"time"

	"canopy/shared/event"
)

// proveEvery is how often a long repair makes sure that the stream forgets nothing that
// has not been read yet.
const proveEvery = time.Second

// proof is what one repair knows about the completeness of its reads: the stream gives
// the next event that it has, and does not say what stood before.
type proof struct {
	after event.Cursor // behind it nothing is proven yet; zero before the first read
	at    time.Time    // of the latest proof
	end   uint64       // the sequence behind which the repair's hold has ended, 0 before
}

// begin notes a read from that place on.
func (p *proof) begin(from event.Cursor) {
	if p.after.Log != from.Log {
		*p = proof{after: event.Cursor{Log: from.Log, Sequence: from.Sequence - 1}}
	}
}

// prove has the leader say that nothing was forgotten that a repair has not read. next is
// the event that comes next. If something may be missing, sockets are told so.
func (f *Feed) prove(ctx context.Context, p *proof, next uint64, last bool) error {
	switch {
	case p.after.Log == 0: // nothing was read
		return nil
	case !last && next == p.after.Sequence+1:
		p.after.Sequence = next
		return nil
	case !last && time.Since(p.at) < proveEvery, last && next <= p.after.Sequence+1:
		return nil
	}
	sound, err := f.forgotten(ctx, p.after)
	if errors.Is(err, errOtherLog) {
		f.hub.suspect(f.shard)
		if last {
			return nil // the look at the stream starts another repair
		}
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.log() == p.after.Log {
		if sound > p.after.Sequence {
			f.skipped(p.after, next)
		}
		p.after.Sequence = next
	}
	p.at = time.Now()
	return nil
}

// passOver goes on behind a range of which the stream has nothing left. Its leader must be
// as far as what has come from it: else the range may lie in the log of its successor.
func (f *Feed) passOver(ctx context.Context, from event.Cursor, target uint64) error {
	err := f.reaches(ctx, event.Cursor{Log: from.Log, Sequence: target})
	if errors.Is(err, errOtherLog) {
		f.hub.suspect(f.shard)
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.log() != from.Log || f.closed {
		return nil
	}
	next := target + 1
	if w := f.chain.waiting; len(w) > 0 {
		next = min(next, w[0].sequence)
	}
	if next > from.Sequence {
		f.skipped(event.Cursor{Log: from.Log, Sequence: from.Sequence - 1}, next)
	}
	f.chain.skip(target)
	return nil
}

// skipped tells sockets that events behind after and before next may be missing. mu is held.
func (f *Feed) skipped(after event.Cursor, next uint64) {
	if f.tellRemade(next) {
		return // that the log is another one says so, too
	}
	before := event.Cursor{Log: after.Log, Sequence: next}
	place := event.Cursor{Log: after.Log, Sequence: max(f.chain.head, next-1)}
	f.applyGap(event.Gap{Reason: event.GapRetention, After: after, Before: before}, place)
}
