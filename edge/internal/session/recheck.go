package session

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// askers is how many questions about access are asked at a time.
	askers = 64

	// endPause is the least time between two walks over all sessions for those whose
	// access has ended.
	endPause = 50 * time.Millisecond
)

// verdicts are the answers that end sessions, until that is done. Any goroutine may use
// them.
type verdicts struct {
	mu      sync.Mutex
	reasons map[*access]Closing
	came    chan struct{} // holds an element if there are any
}

func newVerdicts() *verdicts { return &verdicts{came: make(chan struct{}, 1)} }

func (v *verdicts) add(one *access, reason Closing) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.reasons == nil {
		v.reasons = make(map[*access]Closing)
	}
	v.reasons[one] = reason
	select {
	case v.came <- struct{}{}:
	default:
	}
}

// take gives what was added since the last time.
func (v *verdicts) take() map[*access]Closing {
	v.mu.Lock()
	defer v.mu.Unlock()
	reasons := v.reasons
	v.reasons = nil
	return reasons
}

// ending closes the sessions of each question with its reason, and returns how many there
// were: Registry.end.
type ending func(ctx context.Context, reasons map[*access]Closing) (closed int)

// watch asks again about every open session when access may have changed, until ctx ends.
func (r *Registry) watch(ctx context.Context, end ending) {
	var closing sync.WaitGroup
	closing.Go(func() { r.verdicts.carryOut(ctx, end) })
	defer closing.Wait()
	var asking errgroup.Group
	asking.SetLimit(askers)
	defer func() { _ = asking.Wait() }() // no question fails as a whole
	for {
		changed := r.authz.Changed() // before asking, so that no change is missed
		r.recheck(ctx, &asking)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// recheck has everything asked that is not under way, and returns when the last question
// is put. It does not wait for answers: one that is slow in coming would hold up all others.
func (r *Registry) recheck(ctx context.Context, asking *errgroup.Group) {
	for _, one := range r.accesses.due() {
		asking.Go(func() error {
			for again := true; again; again = r.accesses.answered(one) {
				r.judge(ctx, one)
			}
			return nil
		})
	}
}

// judge asks about one question, and has its sessions end that may not read their
// application any more, or not as what they read it, and those of which nobody can tell for
// longer than the source of access allows.
func (r *Registry) judge(ctx context.Context, one *access) {
	switch ok, err := r.ask(ctx, one); {
	case err != nil:
		r.verdicts.add(one, AccessUnknown)
	case !ok:
		r.verdicts.add(one, AccessWithdrawn)
	}
}

// carryOut ends sessions as answers come, until ctx ends. Those that come within a walk
// over all sessions are carried out together in the next one.
func (v *verdicts) carryOut(ctx context.Context, end ending) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.came:
		}
		end(ctx, v.take())
		pause.Reset(endPause)
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
	}
}
