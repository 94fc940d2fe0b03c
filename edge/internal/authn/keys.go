package authn

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

const (
	// refreshInterval is how often the issuer is asked for its keys while all is well. A
	// key that is new or gone is known after half a minute, fetching included.
	refreshInterval = 25 * time.Second
	// retryMin and retryMax bound the pause after a failed attempt, which doubles. As long
	// as there are keys it is retryMax.
	retryMin = 250 * time.Millisecond
	retryMax = 15 * time.Second
	// unknownInterval is the least time between two refreshes that tokens with an unknown
	// key id cause, so that nobody can make the edge flood the issuer.
	unknownInterval = 10 * time.Second
	// unknownWait is how long after its start a refresh is waited for.
	unknownWait = time.Second
)

// errUnknownKey says that the issuer has no key for a token: none of its key id, or of its
// algorithm.
const errUnknownKey = refusal("token without a known key id")

// keySet holds the issuer's keys in memory and refreshes them in the background. The keys
// that were fetched last stay in use for as long as the issuer cannot be reached.
//
// Any goroutine may read; run alone fetches.
type keySet struct {
	fetch     func(context.Context) ([]jwkset.JWK, error)
	log       *zap.Logger
	refreshes *prometheus.CounterVec
	wanted    chan struct{} // wakes run; holds at most one wish

	mu      sync.Mutex
	byID    map[string][]jwkset.JWK // those that were fetched last; nil before the first
	err     error                   // what the last attempt ended with
	pending bool                    // an attempt is wanted or under way
	started time.Time               // since when
	done    chan struct{}           // closed when that attempt, or else the next one, ends
	asked   time.Time               // when an unknown key id last caused an attempt
}

func newKeySet(fetch func(context.Context) ([]jwkset.JWK, error), log *zap.Logger, refreshes *prometheus.CounterVec) *keySet {
	return &keySet{
		fetch:     fetch,
		log:       log,
		refreshes: refreshes,
		wanted:    make(chan struct{}, 1),
		done:      make(chan struct{}),
		err:       errors.New("keys were not fetched yet"),
	}
}

// run fetches the keys at once and again and again until ctx ends.
func (k *keySet) run(ctx context.Context) {
	pause := retryMin
	for {
		wait := refreshInterval
		if k.refresh(ctx) {
			pause = retryMin
		} else {
			if k.ready() == nil {
				pause = retryMax
			}
			// A third of the pause is random: edges that lost the issuer together must not return together.
			wait = pause - rand.N(pause/3)
			pause = min(2*pause, retryMax)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-k.wanted:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// refresh fetches the keys once and reports whether that worked.
func (k *keySet) refresh(ctx context.Context) bool {
	k.mu.Lock()
	if !k.pending {
		k.pending, k.started = true, time.Now()
	}
	select {
	case <-k.wanted: // this is what was wished for, if the clock was faster
	default:
	}
	before := k.err
	k.mu.Unlock()

	keys, err := k.fetch(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err, k.pending = err, false
	if err != nil {
		k.asked = k.started // an issuer in trouble is not asked more often because of tokens
	}
	close(k.done)
	k.done = make(chan struct{})
	switch {
	case ctx.Err() != nil:
		// The edge is stopping; what was cut off says nothing about the issuer.
	case err != nil:
		k.refreshes.WithLabelValues("error").Inc()
		if before == nil || before.Error() != err.Error() {
			k.log.Warn("fetching the issuer's keys failed, retrying", zap.Bool("last keys in use", k.byID != nil), zap.Error(err))
		}
	default:
		k.refreshes.WithLabelValues("pass").Inc()
		if before != nil {
			k.log.Info("the issuer's keys are there", zap.Int("keys", len(keys)))
		}
		k.byID = make(map[string][]jwkset.JWK)
		for _, key := range keys {
			id := key.Marshal().KID
			k.byID[id] = append(k.byID[id], key)
		}
	}
	return err == nil
}

// ready returns nil once keys were fetched, and what keeps them away before that.
func (k *keySet) ready() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.byID != nil {
		return nil
	}
	return k.err
}

// read returns the keys of an id, of which an issuer may have several: for other uses, or
// of other algorithms. An unknown id may be a new key of the issuer: it causes a refresh,
// at most one in unknownInterval, and waits for it until unknownWait after its start. The
// error wraps errUnknownKey, or ErrUnavailable when there were never any keys: once there
// are, an id that is not among them is refused also while the issuer is away.
func (k *keySet) read(ctx context.Context, id string) ([]jwkset.JWK, error) {
	keys, ready := k.known(id)
	if len(keys) > 0 {
		return keys, nil
	}
	if !ready {
		return nil, ErrUnavailable
	}
	done, started := k.askForRefresh()
	if done == nil {
		return nil, errUnknownKey
	}
	// Counted from the start of the refresh and not from here: while an issuer hangs,
	// one token after the other must not wait a second each.
	timer := time.NewTimer(unknownWait - time.Since(started))
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
	}
	if keys, _ = k.known(id); len(keys) == 0 {
		return nil, errUnknownKey
	}
	return keys, nil
}

// known returns the keys of an id that are in memory, and whether any are.
func (k *keySet) known(id string) (keys []jwkset.JWK, ready bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.byID[id], k.byID != nil
}

// askForRefresh returns a channel that is closed when the refresh under way has ended,
// and since when that is wanted. It starts one if there is none, unless the last one for
// this reason was too recent: then the channel is nil.
func (k *keySet) askForRefresh() (<-chan struct{}, time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pending {
		return k.done, k.started
	}
	now := time.Now()
	if now.Sub(k.asked) < unknownInterval {
		return nil, time.Time{}
	}
	k.asked, k.started, k.pending = now, now, true
	select {
	case k.wanted <- struct{}{}:
	default:
	}
	return k.done, now
}
