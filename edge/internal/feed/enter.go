package feed

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"canopy/shared/event"
)

// stateAge is how old the leader's word about a stream may be to tell a socket that its
// place is none: many may come at once.
const stateAge = time.Second

// streamWord is what a stream's leader has said lately.
type streamWord struct {
	streamState
	oldest uint64 // event of the application, 0 if none
	at     time.Time
}

// lastWord says that last is the application's newest event in the log up to a sequence.
// That stays true.
type lastWord struct {
	last    event.Cursor
	through uint64
}

// errOver says that a reader has to wait until more may be read for him.
var errOver = errors.New("too much was read from the log for this reader")

// enter finds out where x stands, on its account. It says whether it waits for a block of
// events; otherwise it has joined the live feed, is gone, waits for its account, or comes
// again later.
func (p *replayer) enter(ctx context.Context, x *replay) bool {
	r := x.reader
	if !r.claimReplay() {
		return false
	}
	ok, err := p.check(ctx, r)
	c, head := r.Cursor(), p.feed.newest()
	switch {
	case errors.Is(err, errOver):
		if r.unclaim() {
			p.feed.hub.accounts.park(x)
		}
		return false
	case err != nil:
		p.feed.hub.zap.Debug("place of a socket is not known yet", zap.Error(err))
	}
	if !ok || c.Log == head.Log && c.Sequence > head.Sequence {
		if r.unclaim() {
			p.feed.replayLater(r)
		}
		return false
	}
	if p.feed.goLive(r) {
		return false
	}
	if c.Log != head.Log { // since check
		r.entry = entryCheck
	}
	if !r.unclaim() {
		return false
	}
	if x.account.isOver(p.feed.hub.now()) {
		p.feed.hub.accounts.park(x)
		return false
	}
	return true
}

// check makes sure that r, which is claimed, stands in the log as it is now, and tells it
// so if it does not. It is false if that cannot be said yet.
func (p *replayer) check(ctx context.Context, r *Reader) (ok bool, err error) {
	f := p.feed
	c, head := r.Cursor(), f.newest()
	switch {
	case r.entry == entryForgotten && c.Log == head.Log:
		f.writeGap(r, event.Gap{Reason: event.GapRetention, Before: event.Cursor{Log: c.Log, Sequence: c.Sequence + 1}})
		r.entry = entered
		return true, nil
	case c.Log == head.Log && (r.entry == entered || c.Sequence <= head.Sequence):
		r.entry = entered
		return true, nil
	case c.Log == head.Log && r.entry == entryCheck:
		r.entry = entryCheckLate // its client may have had an event that is still on its way to us
		return false, nil
	}
	if accountOf(ctx).isOver(f.hub.now()) {
		return false, errOver
	}
	word, err := p.ask(ctx, c)
	if err != nil {
		return false, err
	}
	switch {
	case word.log != head.Log:
		f.hub.suspect(f.shard)
		return false, nil
	case c.Log == word.log && c.Sequence <= word.last:
		return true, p.catchUpTo(ctx, r, c)
	}
	gap := event.Gap{Reason: event.GapFuture, After: c, Before: event.Cursor{Log: word.log, Sequence: word.oldest}}
	if c.Log != word.log {
		gap.Reason = event.GapLog
	}
	if word.oldest == 0 {
		gap.Before.Sequence = head.Sequence + 1
	}
	f.writeGap(r, gap)
	r.entry = entered
	return true, nil
}

// ask has the leader say how far the stream goes, unless what it said lately is enough:
// that c is within the stream, or in another, stays true, and since r has waited for this
// round, so is a word of it about anything. Nor is it asked twice in a round that it has
// failed in.
func (p *replayer) ask(ctx context.Context, c event.Cursor) (streamWord, error) {
	now := p.feed.hub.now()
	if w := p.word; !w.at.Before(p.round) || now.Sub(w.at) < stateAge && (c.Log != w.log || c.Sequence <= w.last) {
		return w, nil
	}
	if p.failed != nil {
		return streamWord{}, p.failed
	}
	s, err := p.feed.state(ctx)
	if err != nil {
		p.failed = err
		return streamWord{}, err
	}
	oldest, err := p.feed.oldest(ctx)
	if err != nil && !errors.Is(err, errNone) {
		p.failed = err
		return streamWord{}, err
	}
	p.word = streamWord{s, oldest, now}
	return p.word, nil
}

// catchUpTo is for a place that the stream has and the feed has not reached: either an
// event is missing here, or none of this application stands there. Many sockets may come
// with such places after an edge has died; what was said for one of them is enough for all
// that it reaches as far as.
func (p *replayer) catchUpTo(ctx context.Context, r *Reader, c event.Cursor) error {
	f := p.feed
	if w := p.newest; c.Log != w.last.Log || c.Sequence > w.through {
		if p.failed != nil {
			return p.failed
		}
		word, err := f.lastBehind(ctx, c)
		if err != nil {
			p.failed = err
			return err
		}
		p.newest = word
	}
	last := p.newest.last
	had := uint64(0)
	if n := f.newest(); n.Log == c.Log {
		had = n.Sequence
	}
	c.Sequence = min(c.Sequence, max(last.Sequence, had)) // what follows is behind c, since the stream ended behind it before
	r.place(c)
	r.entry = entered
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.log() == last.Log {
		f.expect(last.Sequence)
	}
	return nil
}

// lastBehind finds the application's newest event, in a stream that reaches c.
func (f *Feed) lastBehind(ctx context.Context, c event.Cursor) (lastWord, error) {
	last, err := f.last(ctx)
	if err != nil {
		return lastWord{}, err
	}
	if last.Log != c.Log {
		f.hub.suspect(f.shard)
		return lastWord{}, errOtherLog
	}
	if last.Sequence >= c.Sequence {
		return lastWord{last, last.Sequence}, nil
	}
	// For a moment an old leader may still answer that the others have replaced.
	return f.confirm(ctx, last, c.Sequence)
}

// confirm makes sure that last was the application's newest event when the stream had
// reached sequence: some replica that has so much says so, of its own log alone.
func (f *Feed) confirm(ctx context.Context, last event.Cursor, sequence uint64) (w lastWord, err error) {
	w = lastWord{last, sequence}
	err = f.request(ctx, func(h *history) error {
		newest, upTo, err := h.lastUpTo(ctx, f.shard, f.application)
		switch {
		case errors.Is(err, errNone):
			return nil // nothing is left of the application
		case err != nil:
			return err
		case upTo < sequence:
			return errBehind
		}
		w.last.Sequence, w.through = max(w.last.Sequence, newest), upTo
		return nil
	})
	return w, err
}
