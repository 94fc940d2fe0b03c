package drogue

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"

	"canopy/edge/internal/authn"
)

const (
	// maxAnswers bounds the answers of one kind that are kept. Beyond it those go that are
	// asked for least.
	maxAnswers = 100_000
	// earliest and latest are the parts of its lifetime after which an answer is asked for
	// again. What remains is for noticing that and for the call, so that nothing is
	// believed for longer. Between the two it is chance, so that questions that came in
	// one rush do not come back in one.
	earliest, latest = 0.65, 0.8
)

// answers keeps what a service has answered, and asks it once however many want to know.
// Any goroutine may use it.
type answers[V any] struct {
	life  context.Context // calls end with it
	hold  time.Duration   // lifetime of an answer
	stale time.Duration   // how long beyond that it counts while the service fails
	now   func() time.Time

	kept *otter.Cache[string, kept[V]]

	mu      sync.Mutex
	flights map[flightKey]*flight[V]
}

// kept is an answer, good until it has to be asked for again.
type kept[V any] struct {
	value V
	again time.Time
	ends  time.Time // of its lifetime
}

// flightKey tells calls apart that may be under way: no lane waits for one of another.
type flightKey struct {
	lane     lane
	question string
}

// flight is a call under way.
type flight[V any] struct {
	done  chan struct{} // closed once the rest is set
	value V
	err   error
}

func newAnswers[V any](life context.Context, hold, stale time.Duration) *answers[V] {
	return &answers[V]{
		life: life, hold: hold, stale: stale, now: time.Now,
		kept: otter.Must(&otter.Options[string, kept[V]]{
			MaximumSize:      maxAnswers,
			ExpiryCalculator: otter.ExpiryWriting[string, kept[V]](hold + stale),
		}),
		flights: make(map[flightKey]*flight[V]),
	}
}

// get returns the answer to a question, from memory or by load, of which each lane has one
// at a time. While load fails, an answer counts for longer by the stale time. If load has
// to begin and admit is not nil, that is asked first, and the error is authn.ErrNotAsked
// if it is false. get returns when ctx ends, but load goes on for others.
func (a *answers[V]) get(ctx context.Context, question string, from lane, admit func() bool, load func(context.Context) (V, error)) (V, error) {
	had, under, err := a.begin(flightKey{from, question}, admit, load)
	if under == nil {
		return had, err
	}
	select {
	case <-under.done:
		return under.value, under.err
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	}
}

// begin returns what is known, or the call to wait for.
func (a *answers[V]) begin(key flightKey, admit func() bool, load func(context.Context) (V, error)) (V, *flight[V], error) {
	a.mu.Lock() // a call that ends has its answer in memory before it is no flight any more
	defer a.mu.Unlock()
	had, ok := a.kept.GetIfPresent(key.question)
	if ok && a.now().Before(had.again) {
		return had.value, nil, nil
	}
	var none V
	under := a.flights[key]
	if under != nil {
		return none, under, nil
	}
	if admit != nil && !admit() {
		if ok && a.now().Before(had.ends) {
			return had.value, nil, nil
		}
		return none, nil, authn.ErrNotAsked
	}
	under = &flight[V]{done: make(chan struct{})}
	a.flights[key] = under
	go a.fly(key, under, load)
	return none, under, nil
}

// fly makes a call and tells those who wait for it.
func (a *answers[V]) fly(key flightKey, under *flight[V], load func(context.Context) (V, error)) {
	asked := a.now() // not later: the answer may be as old as the question
	under.value, under.err = load(a.life)
	if under.err == nil {
		part := earliest + (latest-earliest)*rand.Float64()
		a.kept.Set(key.question, kept[V]{under.value, asked.Add(time.Duration(part * float64(a.hold))), asked.Add(a.hold)})
	} else if had, ok := a.kept.GetIfPresent(key.question); ok && a.now().Before(had.ends.Add(a.stale)) {
		under.value, under.err = had.value, nil
	}
	a.mu.Lock()
	delete(a.flights, key)
	a.mu.Unlock()
	close(under.done)
}
