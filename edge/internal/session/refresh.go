package session

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"

	"canopy/edge/internal/authn"
)

const (
	// refreshWorkers is how many tokens are verified at a time. That is a matter of
	// computing, but one whose key is unknown may wait for its issuer.
	refreshWorkers = 16

	// refreshPause is how long a session waits between two tokens that are verified.
	refreshPause = time.Second
)

// refreshes are the newer tokens that wait to be verified. No session has more than one of
// them, so that there are never more than sockets, and none has to be refused: the last one
// that came counts, those that it overtakes do not matter. Users take turns, and so do the
// sessions of each: whoever has ten thousand sockets holds nobody else up.
//
// Any goroutine may use them.
type refreshes struct {
	mu      sync.Mutex
	held    map[*Session]*refresh
	turns   list.List        // of the lines that are not empty, as *line; the first is next
	lines   map[string]*line // by user
	resting list.List        // those that were verified a moment ago, as *refresh, by until

	wake chan struct{} // holds an element when there may be something for one more worker
}

// line holds the refreshes of one user that wait, in the order in which they came.
type line struct {
	user    string
	waiting list.List     // of *refresh
	turn    *list.Element // in turns
}

// refresh is what is held for one session: a token that waits, or the memory that it had
// its turn a moment ago.
type refresh struct {
	session *Session
	user    string
	token   *string // nil if none came since the last was taken
	place   *list.Element
	in      *list.List // that place is in; nil while the token is verified
	until   time.Time  // of its rest
}

func newRefreshes() *refreshes {
	return &refreshes{
		held: make(map[*Session]*refresh), lines: make(map[string]*line), wake: make(chan struct{}, 1),
	}
}

// put has a token of s verified, in place of one that waits.
func (q *refreshes) put(s *Session, token string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	one := q.held[s]
	if one == nil {
		one = &refresh{session: s, user: s.principal.Load().User}
		q.held[s] = one
		q.enter(one)
	}
	one.token = &token
}

// enter puts one at the end of its user's line. mu is held.
func (q *refreshes) enter(one *refresh) {
	l := q.lines[one.user]
	if l == nil {
		l = &line{user: one.user}
		q.lines[one.user], l.turn = l, q.turns.PushBack(l)
	}
	one.in, one.place = &l.waiting, l.waiting.PushBack(one)
	q.signal()
}

func (q *refreshes) signal() {
	select {
	case q.wake <- struct{}{}:
	default: // a worker will look, and pass it on
	}
}

// take gives the refresh whose turn it is at now, with its token. If there is none it says
// how long it takes until there may be one, 0 if that takes another put.
func (q *refreshes) take(now time.Time) (one *refresh, token string, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	wait = q.rouse(now)
	first := q.turns.Front()
	if first == nil {
		return nil, "", wait
	}
	l := first.Value.(*line)
	one = l.waiting.Front().Value.(*refresh)
	q.leave(one)
	if l.turn != nil {
		q.turns.MoveToBack(l.turn)
	}
	if q.turns.Len() > 0 || q.resting.Len() > 0 {
		q.signal()
	}
	token, one.token = *one.token, nil
	return one, token, 0
}

// rouse ends the rests that are over at now, and returns how long the next one takes, 0 if
// there is none. mu is held.
func (q *refreshes) rouse(now time.Time) time.Duration {
	for first := q.resting.Front(); first != nil; first = q.resting.Front() {
		one := first.Value.(*refresh)
		if wait := one.until.Sub(now); wait > 0 {
			return wait
		}
		q.leave(one)
		if one.token != nil {
			q.enter(one)
		} else {
			delete(q.held, one.session)
		}
	}
	return 0
}

// leave takes one out of the list that it is in. mu is held.
func (q *refreshes) leave(one *refresh) {
	if one.in == nil {
		return
	}
	one.in.Remove(one.place)
	if l := q.lines[one.user]; l != nil && one.in == &l.waiting && l.waiting.Len() == 0 {
		q.turns.Remove(l.turn)
		delete(q.lines, l.user)
		l.turn = nil
	}
	one.in, one.place = nil, nil
}

// rest says that the token of one, which was taken, was verified at now.
func (q *refreshes) rest(one *refresh, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.held[one.session] != one {
		return // it has ended
	}
	one.until = now.Add(refreshPause)
	one.in, one.place = &q.resting, q.resting.PushBack(one)
	q.signal()
}

// drop forgets s, which ends.
func (q *refreshes) drop(s *Session) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if one := q.held[s]; one != nil {
		q.leave(one)
		delete(q.held, s)
	}
}

func (q *refreshes) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.held)
}

// refresh has a token verified by a worker. It does not block.
func (r *Registry) refresh(s *Session, token string) {
	if len(token) > authn.TokenBytes || s.principal.Load().Kind != authn.Token {
		s.Close(RefreshRefused)
		return
	}
	r.refreshes.put(s, token)
	if s.state.Load() == gone {
		r.refreshes.drop(s) // it may have been dropped before it was put
	}
}

// verify is a worker: it verifies the tokens whose turn it is until ctx ends.
func (r *Registry) verify(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for ctx.Err() == nil {
		one, token, wait := r.refreshes.take(time.Now())
		if one != nil {
			if one.session.state.Load() == open {
				r.verifyOne(ctx, one.session, token)
			}
			r.refreshes.rest(one, time.Now())
			continue
		}
		var over <-chan time.Time
		if wait > 0 {
			pause.Reset(wait)
			over = pause.C
		}
		select {
		case <-ctx.Done():
		case <-r.refreshes.wake:
		case <-over:
		}
	}
}

func (r *Registry) verifyOne(ctx context.Context, s *Session, token string) {
	fresh, err := r.authn.Refresh(ctx, s.Principal(), token)
	switch {
	case errors.Is(err, authn.ErrForbidden):
		s.Close(RefreshRefused)
		return
	case ctx.Err() != nil:
		return // the edge ends, and with it every session
	case err != nil:
		s.Close(RefreshFailed)
		return
	}
	s.principal.Store(&fresh)
	r.wheel.hasten(s, 1)
	// It joins before asking, so that recheck sees it if access changes now. A question that
	// it was counted under before is asked in its time, as if the token were the old one:
	// ten thousand that come at once must not wait for as many answers.
	before := r.accesses.of(s)
	if to := r.accesses.join(s, fresh, time.Time{}); to != nil && to != before {
		if ok, err := r.ask(ctx, to); err == nil && !ok {
			s.Close(AccessWithdrawn)
		}
	}
}
