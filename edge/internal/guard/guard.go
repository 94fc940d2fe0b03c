// Package guard slows down whoever fails again and again, and costs nobody else anything.
package guard

import (
	"sync"
	"time"
)

// remembered bounds what a Guard remembers, twice over.
const remembered = 1 << 15

// Guard allows each key so many failures in a row, and then one more in each interval. A
// failure is booked before it is known to be one, and given back if it was none: however
// many attempts go on at a time, no more of them can fail than are allowed. Any goroutine
// may use it.
//
// It keeps one moment for each key (GCRA): when all its failures will be forgotten. What a
// key holds is held for long: it should be of a fixed size.
type Guard[K comparable] struct {
	burst    time.Duration // how many intervals the failures in a row may take
	interval time.Duration
	now      func() time.Time

	mu     sync.Mutex
	recent map[K]time.Time
	older  map[K]time.Time // what was recent before that was full
}

// New returns a guard that allows burst failures in a row, and one more per interval. now
// is the clock, time.Now outside of tests.
func New[K comparable](burst int, interval time.Duration, now func() time.Time) *Guard[K] {
	return &Guard[K]{
		burst: time.Duration(burst) * interval, interval: interval, now: now,
		recent: make(map[K]time.Time),
	}
}

// Book books a failure of k and returns 0, or returns how long k has to wait for that.
func (g *Guard[K]) Book(k K) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	until := g.until(k)
	if until.Before(now) {
		until = now
	}
	until = until.Add(g.interval)
	if wait := until.Add(-g.burst).Sub(now); wait > 0 {
		return wait
	}
	if _, known := g.recent[k]; !known && len(g.recent) >= remembered {
		// The half that is let go has failed least recently. Whoever has this many keys is
		// not held back by what each of them may do.
		g.recent, g.older = make(map[K]time.Time), g.recent
	}
	g.recent[k] = until
	return 0
}

// Return gives back what Book has booked: it was no failure. A key that has no other is
// forgotten, so that those who fail at nothing push out nobody who does.
func (g *Guard[K]) Return(k K) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	for _, half := range []map[K]time.Time{g.recent, g.older} {
		until, ok := half[k]
		if !ok {
			continue
		}
		if until = until.Add(-g.interval); until.After(now) {
			half[k] = until
		} else {
			delete(half, k)
		}
		return
	}
}

func (g *Guard[K]) until(k K) time.Time {
	if until, ok := g.recent[k]; ok {
		return until
	}
	return g.older[k]
}
