package drogue

import (
	"context"
	"crypto/sha256"
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
	// maxDenials bounds those that say no, which anybody can cause as many of as he likes:
	// they must not push out the others.
	maxDenials = 10_000
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

	denies  func(V) bool // whether an answer says no
	kept    *otter.Cache[hash, kept[V]]
	denials *otter.Cache[hash, kept[V]]

	mu      sync.Mutex
	flights map[flightKey]*flight[V]
}

// hash stands for a question: those who ask may choose names, and have roles, as long as a
// header.
type hash [sha256.Size]byte

// kept is an answer, good until it has to be asked for again.
type kept[V any] struct {
	value V
	asked time.Time
	again time.Time
}

// flightKey tells calls apart that may be under way: no lane waits for one of another.
type flightKey struct {
	lane     lane
	question hash
}

// flight is a call under way.
type flight[V any] struct {
	done   chan struct{} // closed once the rest is set
	answer kept[V]
	err    error
}

func newAnswers[V any](life context.Context, hold, stale time.Duration, denies func(V) bool) *answers[V] {
	memory := func(most int) *otter.Cache[hash, kept[V]] {
		return otter.Must(&otter.Options[hash, kept[V]]{
			MaximumSize:      most,
			ExpiryCalculator: otter.ExpiryWriting[hash, kept[V]](hold + stale),
		})
	}
	return &answers[V]{
		life: life, hold: hold, stale: stale, now: time.Now,
		denies: denies, kept: memory(maxAnswers), denials: memory(maxDenials),
		flights: make(map[flightKey]*flight[V]),
	}
}

// get returns the answer to a question and when it was asked, from memory or by load, of
// which each lane has one at a time. While load fails, an answer counts for longer by the
// stale time. If load has to begin and admit is not nil, that is asked first, and the
// error is authn.ErrNotAsked if it is false. get returns when ctx ends, but load goes on
// for others.
func (a *answers[V]) get(ctx context.Context, question string, from lane, admit func() bool, load func(context.Context) (V, error)) (V, time.Time, error) {
	had, under, err := a.begin(flightKey{from, sha256.Sum256([]byte(question))}, admit, load)
	if under == nil {
		return had.value, had.asked, err
	}
	select {
	case <-under.done:
		return under.answer.value, under.answer.asked, under.err
	case <-ctx.Done():
		var none V
		return none, time.Time{}, ctx.Err()
	}
}

// begin returns what is known, or the call to wait for.
func (a *answers[V]) begin(key flightKey, admit func() bool, load func(context.Context) (V, error)) (kept[V], *flight[V], error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	had, ok := a.memory(key.question)
	if ok && a.now().Before(had.again) {
		return had, nil, nil
	}
	under := a.flights[key]
	if under != nil {
		return kept[V]{}, under, nil
	}
	if admit != nil && !admit() {
		if ok && a.now().Before(had.asked.Add(a.hold)) {
			return had, nil, nil
		}
		return kept[V]{}, nil, authn.ErrNotAsked
	}
	under = &flight[V]{done: make(chan struct{})}
	a.flights[key] = under
	go a.fly(key, under, load)
	return kept[V]{}, under, nil
}

// memory returns the answer that is kept. mu is held.
func (a *answers[V]) memory(question hash) (kept[V], bool) {
	if had, ok := a.kept.GetIfPresent(question); ok {
		return had, true
	}
	return a.denials.GetIfPresent(question)
}

// fly makes a call and tells those who wait for it.
func (a *answers[V]) fly(key flightKey, under *flight[V], load func(context.Context) (V, error)) {
	asked := a.now() // not later: the answer may be as old as the question
	value, err := load(a.life)
	a.mu.Lock()
	defer a.mu.Unlock()
	had, ok := a.memory(key.question)
	switch {
	case err == nil:
		part := earliest + (latest-earliest)*rand.Float64()
		under.answer = kept[V]{value, asked, asked.Add(time.Duration(part * float64(a.hold)))}
		if !ok || had.asked.Before(asked) { // else another lane has asked later, and was faster
			a.keep(key.question, under.answer)
		}
	case ok && a.now().Before(had.asked.Add(a.hold+a.stale)):
		under.answer = had
	default:
		under.err = err
	}
	delete(a.flights, key)
	close(under.done)
}

// keep remembers an answer, and forgets the one before. mu is held.
func (a *answers[V]) keep(question hash, answer kept[V]) {
	to, other := a.kept, a.denials
	if a.denies(answer.value) {
		to, other = other, to
	}
	other.Invalidate(question)
	to.Set(question, answer)
}
