package feed

import (
	"context"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"canopy/shared/event"
)

const (
	// backstop is how often a stream's leader is asked for a feed's last sequence although
	// nothing seems to be missing: the last event before a pause may have been lost, and
	// ingest's beacon with it.
	backstop = time.Minute

	// After a feed was opened, and after a reconnect or a new leader, the first two times
	// come sooner: other nodes of a cluster may learn of the subscription later than the
	// one that has confirmed it.
	firstLook  = 500 * time.Millisecond
	secondLook = 2500 * time.Millisecond

	// lookRetry is when a look that failed comes again.
	lookRetry = time.Second

	lookStep   = 200 * time.Millisecond
	looksAStep = 512 // so many feeds at most are looked at in a lookStep
	looksAhead = 32  // at once

	// onItsWay is how long an event that the leader has may take to get here.
	onItsWay = 250 * time.Millisecond
)

// witness has the leaders say how far the streams go, for every feed now and then.
func (h *Hub) witness(ctx context.Context) {
	ticker := time.NewTicker(lookStep)
	defer ticker.Stop()
	group, limited := errgroup.WithContext(ctx)
	group.SetLimit(looksAhead)
	for {
		select {
		case <-ctx.Done():
			_ = group.Wait() // its functions return no errors
			return
		case <-ticker.C:
		}
		now := h.now()
		h.mu.Lock()
		feeds := h.all()
		h.mu.Unlock()
		looks := 0
		for _, f := range feeds {
			// A stream that does not answer must not hold up the looks at others.
			if slot := h.slotsOf(f.shard); looks < looksAStep && len(slot) < cap(slot) && f.due(now) {
				looks++
				group.Go(func() error { f.look(limited); return nil })
			}
		}
	}
}

// due says whether it is time to look at f, and sets the next time.
func (f *Feed) due(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.chain.held || !f.isOpen() || now.Before(f.nextLook) {
		return false // while it is held, the leader is asked anyway
	}
	f.looks++
	if f.looks == 1 {
		f.nextLook = now.Add(secondLook)
	} else { // spread, so that feeds that were opened together do not ask together for ever
		f.nextLook = now.Add(f.hub.config.Backstop/2 + rand.N(f.hub.config.Backstop))
	}
	return true
}

// lookSoon makes the next two looks at f come soon. mu is held.
func (f *Feed) lookSoon() {
	f.looks = 0
	f.nextLook = f.hub.now().Add(firstLook/2 + rand.N(firstLook))
}

// look asks the leader for the last sequence. If it is not the feed's, and that stays so
// for a moment, something was lost.
func (f *Feed) look(ctx context.Context) {
	before := f.newest()
	word, by, err := f.lastThrough(ctx, time.Now().Add(-leadTime))
	f.hub.stats.looks.Inc() // now, so that who has seen it rise knows that the look is over
	if err != nil {
		f.hub.zap.Debug("leader does not answer", zap.String("application", f.application), zap.Error(err))
		f.mu.Lock()
		f.looks, f.nextLook = 0, f.hub.now().Add(lookRetry/2+rand.N(lookRetry))
		f.mu.Unlock()
		return
	}
	last := word.last
	if last.Log != before.Log {
		f.hub.suspect(f.shard)
		return
	}
	if last.Sequence <= before.Sequence { // less if its events have expired
		f.nothingUpTo(word.through, by)
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-time.After(onItsWay):
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed && f.log() == before.Log {
		f.expect(last.Sequence)
	}
}

// nothingUpTo notes that the stream has no event up to sequence that the feed has not had,
// and by, who said so, has forgotten none: so a pause that lasts longer than events are kept
// is not taken for a loss.
func (f *Feed) nothingUpTo(sequence uint64, by leader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.chain.held && f.log() == by.log && by.first <= f.chain.known()+1 {
		f.chain.skip(sequence)
	}
}

// beacon takes ingest's word about the newest event that the stream has acknowledged.
func (f *Feed) beacon(text string) error {
	c, err := event.ParseCursor(text)
	if err != nil {
		return err
	}
	f.hub.stats.beacons.Inc()
	if f.isOpen() && c.Log != f.log() {
		f.hub.suspect(f.shard)
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.isOpen() {
		f.ask = true // this may be newer than what the leader is just being asked for
	} else if c.Log == f.log() && c.Sequence > max(f.chain.head, f.chain.verified) && !f.chain.held && !f.closed {
		// The leader says how far to read: a wrong number must not let holes pass.
		f.ask = true
		f.hole()
	}
	return nil
}

// hole begins to read from the stream what is missing. mu is held, and the chain is not.
func (f *Feed) hole() {
	f.chain.hold()
	f.hub.stats.holes.Inc()
	f.startRepair()
}

// expect notes that the stream's leader holds, or has held, an event of that sequence. mu is
// held.
func (f *Feed) expect(sequence uint64) {
	if f.closed || sequence <= max(f.chain.head, f.chain.verified) {
		return
	}
	f.chain.target = max(f.chain.target, sequence)
	if !f.chain.held {
		f.hole()
	}
}
