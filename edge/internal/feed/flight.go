package feed

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// flights are a feed's searches for places that sockets begin at and have no cursor of. A
// thousand sockets that come back together ask the leader once, if they ask for the first event,
// or are of one reader: each search is on the account of the reader who began it, and a time may
// wait behind others of his. One that nobody waits for any more is given up: so there are no
// more of them than sockets that wait.
//
// Any goroutine may call it. Its lock comes before the Hub's.
type flights struct {
	mu  sync.Mutex
	all map[flightKey]*flight
}

type flightKey struct {
	kind  sinceKind
	at    int64  // in nanoseconds since 1970
	owner string // empty for the first event
}

type flight struct {
	key    flightKey
	cancel context.CancelFunc
	done   chan struct{} // closed when it is over

	at  begin // set before done is closed, like what follows
	err error

	waiting int // sockets; guarded by flights.mu
}

// fly has since searched for on account of a, or finds the search for it that is under way. The
// caller has to leave it.
func (f *Feed) fly(since Since, a *account) (*flight, error) {
	key := flightKey{kind: fromEarliest}
	if since.kind == fromTime {
		key = flightKey{fromTime, since.at.UnixNano(), since.owner}
	}
	p := &f.finding
	p.mu.Lock()
	defer p.mu.Unlock()
	x := p.all[key]
	if x == nil {
		x = &flight{key: key, done: make(chan struct{})}
		if err := f.start(x, since, a); err != nil {
			return nil, err
		}
		if p.all == nil {
			p.all = map[flightKey]*flight{}
		}
		p.all[key] = x
	}
	x.waiting++
	return x, nil
}

// start begins x, unless the Hub ends.
func (f *Feed) start(x *flight, since Since, a *account) error {
	h := f.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.context.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	var ctx context.Context
	ctx, x.cancel = context.WithTimeout(h.context, openTimeout)
	h.accounts.keep(a)
	h.work.Add(1)
	go func() {
		defer h.work.Done()
		defer h.accounts.leave(a)
		defer x.cancel()
		if since.kind == fromEarliest {
			x.at, x.err = f.findEarliest(aheadFor(ctx, a)) // for others, too; there is one at a time
		} else {
			x.at, x.err = f.findTime(onAccountOf(ctx, a), since.at)
		}
		f.finding.remove(x)
		close(x.done)
	}()
	return nil
}

// leave says that one socket does not wait for x any more.
func (p *flights) leave(x *flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if x.waiting--; x.waiting == 0 {
		x.cancel()
		p.drop(x) // so that nobody joins it
	}
}

func (p *flights) remove(x *flight) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(x)
}

// drop forgets x. mu is held.
func (p *flights) drop(x *flight) {
	if p.all[x.key] == x {
		delete(p.all, x.key)
	}
}

// TooMuchRead is Attach's error for a reader who has used up what may be read for him, and gets
// nothing of it again while he may wait.
type TooMuchRead struct{ RetryAfter time.Duration }

func (e *TooMuchRead) Error() string {
	return fmt.Sprintf("%s for %s", errOver, e.RetryAfter)
}

// await waits until a has something of its budget, or says at once that this takes too long.
func (s *accounts) await(ctx context.Context, a *account, now func() time.Time) error {
	for counted := false; ; counted = true {
		wait := a.owes(now())
		if wait <= 0 {
			return nil
		}
		if !counted && s.over != nil {
			s.over.Inc()
		}
		if end, ok := ctx.Deadline(); ok && time.Until(end) < wait {
			return &TooMuchRead{wait}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// owes is for how long a has nothing of its budget.
func (a *account) owes(now time.Time) time.Duration {
	if !a.isOver(now) {
		return 0
	}
	grains := 1 - a.budget.TokensAt(now)
	return max(time.Millisecond, time.Duration(grains/float64(a.budget.Limit())*float64(time.Second)))
}
