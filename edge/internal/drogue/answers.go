package drogue

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

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

	kept   *otter.Cache[string, kept[V]]
	flight singleflight.Group
}

// kept is an answer, good until it has to be asked for again.
type kept[V any] struct {
	value V
	again time.Time
	ends  time.Time // of its lifetime
}

func newAnswers[V any](life context.Context, hold, stale time.Duration) *answers[V] {
	return &answers[V]{
		life: life, hold: hold, stale: stale, now: time.Now,
		kept: otter.Must(&otter.Options[string, kept[V]]{
			MaximumSize:      maxAnswers,
			ExpiryCalculator: otter.ExpiryWriting[string, kept[V]](hold + stale),
		}),
	}
}

// get returns the answer to a question, from memory or by load. While load fails, an
// answer counts for longer by the stale time. Without ask, only memory is asked, and the
// error is authn.ErrNotAsked. It returns when ctx ends, but load goes on for others.
func (a *answers[V]) get(ctx context.Context, question string, ask bool, load func(context.Context) (V, error)) (V, error) {
	had, ok := a.kept.GetIfPresent(question)
	if ok && a.now().Before(had.again) {
		return had.value, nil
	}
	if !ask {
		var none V
		return none, authn.ErrNotAsked
	}
	done := a.flight.DoChan(question, func() (any, error) {
		had, ok := a.kept.GetIfPresent(question)
		if ok && a.now().Before(had.again) {
			return had.value, nil // a call ended while this one was about to begin
		}
		asked := a.now() // not later: the answer may be as old as the question
		value, err := load(a.life)
		if err != nil {
			if ok && a.now().Before(had.ends.Add(a.stale)) {
				return had.value, nil
			}
			return nil, err
		}
		part := earliest + (latest-earliest)*rand.Float64()
		a.kept.Set(question, kept[V]{value, asked.Add(time.Duration(part * float64(a.hold))), asked.Add(a.hold)})
		return value, nil
	})
	var none V
	select {
	case result := <-done:
		if result.Err != nil {
			return none, result.Err
		}
		return result.Val.(V), nil
	case <-ctx.Done():
		return none, ctx.Err()
	}
}
