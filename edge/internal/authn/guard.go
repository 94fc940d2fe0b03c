package authn

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// failureBurst is how many sign-ins with API keys may fail from one address in a row,
	// failureInterval how long it takes until it is one more.
	failureBurst    = 20
	failureInterval = time.Second
	// guardAddresses bounds the addresses that are remembered, twice over.
	guardAddresses = 1 << 15
)

// TooMany says that too many sign-ins failed from an address.
type TooMany struct {
	// RetryAfter is how long the address should wait, more than 0.
	RetryAfter time.Duration
}

// Error returns a fixed text.
func (e *TooMany) Error() string { return "too many failed sign-ins from this address" }

// guard counts the failed sign-ins of each address: guessing must stay slow, and cost
// nobody else anything. Any goroutine may use it.
//
// It keeps one moment for each address (GCRA): when all its failures will be forgotten.
type guard struct {
	now func() time.Time

	mu     sync.Mutex
	recent map[netip.Addr]time.Time
	older  map[netip.Addr]time.Time // what was recent before that was full
}

// wait returns how long an address must not fail again; 0 if it may.
func (g *guard) wait(from netip.Addr) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	free := g.until(from).Add(-(failureBurst - 1) * failureInterval)
	return max(0, free.Sub(g.now()))
}

// failed notes a failure of an address that may fail.
func (g *guard) failed(from netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	until, now := g.until(from), g.now()
	if until.Before(now) {
		until = now
	}
	if _, known := g.recent[from]; !known && len(g.recent) >= guardAddresses || g.recent == nil {
		// The half that is let go has failed least recently. Whoever has this many
		// addresses is not held back by what each of them may do.
		g.recent, g.older = make(map[netip.Addr]time.Time), g.recent
	}
	// At the bound it stays, however many fail at the same time.
	g.recent[from] = minTime(until.Add(failureInterval), now.Add(failureBurst*failureInterval))
}

func (g *guard) until(from netip.Addr) time.Time {
	if until, ok := g.recent[from]; ok {
		return until
	}
	return g.older[from]
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
