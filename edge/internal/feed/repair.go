package feed

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"canopy/shared/event"
)

const (
	repairBackoff    = 50 * time.Millisecond
	repairMaxBackoff = 2 * time.Second

	// settleLimit is how long a repair waits for sockets that can take events to have
	// had them, before it appends more.
	settleLimit = 2 * time.Second
)

// startRepair reads the missing range in a goroutine of its own. mu is held, and the
// chain is.
func (f *Feed) startRepair() {
	f.repairing = true
	f.hub.stats.repairs.Inc()
	f.hub.work.Add(1)
	go func() {
		defer f.hub.work.Done()
		f.repair(f.hub.context)
	}()
}

// repair reads from the stream until nothing is missing. It tries for as long as the
// feed lives: sockets notice a pause, not a loss.
func (f *Feed) repair(ctx context.Context) {
	w := f.hub.windowsOf(f.shard)
	w.repairing.Add(1)
	defer w.leave()
	wait := repairBackoff
	var proof proof // outlives failures: what was read before them has to be proven, too
	for ctx.Err() == nil {
		err := f.readOn(ctx, &proof)
		if err == nil {
			return
		}
		f.hub.stats.repairErrors.Inc()
		f.hub.zap.Warn("repair will be tried again", zap.String("application", f.application),
			zap.Duration("after", wait), zap.Error(err))
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait/2)):
		}
		wait = min(2*wait, repairMaxBackoff)
	}
}

// readOn reads what is missing until the hold ends.
func (f *Feed) readOn(ctx context.Context, proof *proof) error {
	var at anchor
	unsettled := int64(0)
	for {
		if proof.end > 0 { // only the proof is left; the feed may repair something else by now
			return f.prove(ctx, proof, proof.end, true)
		}
		from, target, ask, done := f.missing()
		if done && from.Sequence == 0 { // it was closed
			return nil
		}
		if done {
			proof.end = from.Sequence
			continue
		}
		if ask {
			if err := f.askLeader(ctx); err != nil {
				return err
			}
			continue
		}
		if at.log != from.Log {
			at = anchor{}
		}
		list, err := f.nextOf(ctx, from, at)
		if errors.Is(err, errNone) {
			if err := f.passOver(ctx, from, target); err != nil {
				return err
			}
			continue
		}
		if errors.Is(err, errOtherLog) {
			f.hub.suspect(f.shard)
		}
		if err != nil {
			return err
		}
		proof.begin(from)
		if err := f.prove(ctx, proof, list[0].sequence, false); err != nil {
			return err
		}
		at = anchorAfter(list, from)
		unsettled += f.applyStored(list, from)
		if unsettled > f.hub.config.Buffers.FeedBytes/8 {
			f.settle(ctx)
			unsettled = 0
		}
	}
}

// missing drains what waits and says where to read on, and how far at least. It is done
// when the hold has ended.
func (f *Feed) missing() (from event.Cursor, target uint64, ask, done bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		f.repairing = false
		return from, 0, false, true
	}
	if f.ask {
		return from, 0, true, false
	}
	f.drain()
	if !f.chain.held && f.subDropped() != f.dropped {
		// The NATS client tells of a run of drops when it begins, and the end of the run
		// may be the end of the events.
		f.chain.hold()
		f.ask = true
		return from, 0, true, false
	}
	f.repairing = f.chain.held
	if !f.chain.held {
		f.tellRemade(max(f.chain.head, f.chain.verified) + 1) // nothing of the application is in it
	}
	from = event.Cursor{Log: f.log(), Sequence: max(f.chain.head, f.chain.verified) + 1}
	return from, f.chain.target, false, !f.chain.held
}

// askLeader makes the application's last sequence, as the leader knows it, the target.
func (f *Feed) askLeader(ctx context.Context) error {
	f.mu.Lock()
	f.ask = false
	f.dropped = f.subDropped()
	f.mu.Unlock()
	last, err := f.last(ctx)
	if err == nil && !f.reach(last) {
		f.hub.suspect(f.shard) // the look at the stream takes us into the other log
		err = errOtherLog
	}
	if err != nil {
		f.mu.Lock()
		f.ask = true
		f.mu.Unlock()
	}
	return err
}

// reach makes last the target, unless it is a place in another log than the feed's.
func (f *Feed) reach(last event.Cursor) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if last.Log != f.log() {
		return false
	}
	f.chain.target = max(f.chain.target, last.Sequence)
	return true
}

// applyStored appends what the stream gave from a place on, unless the stream was made
// anew since, and says how many bytes that were.
func (f *Feed) applyStored(list []message, from event.Cursor) (bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.log() != from.Log {
		return 0
	}
	for _, m := range list {
		if f.chain.stored(m) && !f.closed {
			f.apply(m)
			f.hub.stats.repaired.Inc()
			bytes += int64(len(m.json))
		}
	}
	return bytes
}

// settle waits until every socket that can take events has had those of the ring, so
// that a fast read from the stream pushes no healthy socket off it.
func (f *Feed) settle(ctx context.Context) {
	limit := time.NewTimer(settleLimit)
	defer limit.Stop()
	for !f.calm() {
		select {
		case <-f.calmed:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}
