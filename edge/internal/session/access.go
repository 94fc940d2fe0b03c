package session

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/authz"
	"canopy/edge/internal/group"
	"canopy/edge/internal/procs"
)

// question is what sessions have in common whose access is one matter: the same
// principal, signed in the same way, the same application, and the least access to it that
// they need.
type question struct {
	kind        authn.Kind
	user        string
	roles       string
	key         [32]byte
	application string
	least       authz.Access
}

func newQuestion(p authn.Principal, application string, least authz.Access) question {
	return question{p.Kind, p.User, fmt.Sprintf("%q", p.Roles), p.KeyID, application, least}
}

// access is one question with the number of sessions that it is about.
type access struct {
	question
	principal authn.Principal

	// What follows is guarded by the accesses.

	sessions int
	known    time.Time // when the last answer that said yes was asked for, zero if none
	asking   bool      // an answer is under way
	again    bool      // access may have changed since that was asked for
}

// accesses are the questions that open sessions raise, each once: a hundred thousand
// sockets of one user cost one answer. Any goroutine may use them.
type accesses struct {
	mu   sync.Mutex // guards Session.access and Session.left, too
	open map[question]*access
}

// join counts s under the question that p raises, and no more under another one. p had
// access when that was asked for at known. It returns the question, nil for a session that
// has left, which stays out.
func (a *accesses) join(s *Session, p authn.Principal, known time.Time) *access {
	asked := newQuestion(p, s.Application, s.least())
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.left {
		return nil
	}
	to := a.open[asked]
	if to != nil && to == s.access {
		return to
	}
	a.drop(s)
	if to == nil {
		if a.open == nil {
			a.open = make(map[question]*access)
		}
		to = &access{question: asked, principal: p}
		a.open[asked] = to
	}
	if to.known.Before(known) {
		to.known = known
	}
	to.sessions++
	s.access = to
	return to
}

// learn notes that an answer said yes which was asked for at known.
func (a *accesses) learn(one *access, known time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if one.known.Before(known) {
		one.known = known
	}
}

func (a *accesses) knownOf(one *access) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return one.known
}

// leave counts s no more, for good.
func (a *accesses) leave(s *Session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop(s)
	s.left = true
}

// drop takes s out of its question, which ends with its last session. mu is held.
func (a *accesses) drop(s *Session) {
	if s.access == nil {
		return
	}
	if s.access.sessions--; s.access.sessions == 0 {
		delete(a.open, s.access.question)
	}
	s.access = nil
}

// all lists the questions for which keep is true; they never change.
func (a *accesses) all(keep func(*access) bool) []*access {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]*access, 0, len(a.open))
	for _, one := range a.open {
		if keep(one) {
			list = append(list, one)
		}
	}
	return list
}

// due lists the questions to ask now, those whose last answer is the oldest first, and
// marks them as being asked. One that is under way already is to be asked again after it.
func (a *accesses) due() []*access {
	known := make(map[*access]time.Time)
	list := a.all(func(one *access) bool {
		if one.asking {
			one.again = true
			return false
		}
		one.asking, known[one] = true, one.known
		return true
	})
	slices.SortFunc(list, func(x, y *access) int { return known[x].Compare(known[y]) })
	return list
}

// answered says that the answer to one has come, and reports whether to ask again.
func (a *accesses) answered(one *access) (again bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	again, one.again = one.again, false
	one.asking = again
	return again
}

func (a *accesses) of(s *Session) *access {
	a.mu.Lock()
	defer a.mu.Unlock()
	return s.access
}

func (a *accesses) len() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.open)
}

// ask asks about one question, and remembers an answer that says yes: so it counts for as
// long as it may, however many others are asked about.
func (r *Registry) ask(ctx context.Context, one *access) (ok bool, err error) {
	as, asked, err := r.authz.StillMayRead(ctx, one.principal, one.application, r.accesses.knownOf(one))
	ok = as >= one.least
	if ok && err == nil {
		r.accesses.learn(one, asked)
	}
	return ok, err
}

// end closes the sessions of each question with its reason, on all cores, and returns how
// many there were. When ctx ends it closes none.
func (r *Registry) end(ctx context.Context, reasons map[*access]Closing) (closed int) {
	if len(reasons) == 0 || ctx.Err() != nil {
		return 0
	}
	sessions := r.all(ctx)
	var count atomic.Int64
	var rest sync.WaitGroup
	for part := range slices.Chunk(sessions, len(sessions)/procs.Workers()+1) {
		rest.Go(func() {
			for _, s := range part {
				if reason, ok := reasons[r.accesses.of(s)]; ok && s.close(reason, awaitPeer, group.Dismissed) {
					count.Add(1)
				}
			}
		})
	}
	rest.Wait()
	return int(count.Load())
}

// Disconnect closes all sessions of a user, or of an application if user is empty, and
// returns how many there were. Users are named as principals are, whichever way they
// signed in. It returns early when ctx ends.
func (r *Registry) Disconnect(ctx context.Context, user, application string) int {
	reasons := make(map[*access]Closing)
	for _, one := range r.accesses.all(func(a *access) bool {
		if user != "" {
			return a.user == user
		}
		return a.question.application == application
	}) {
		reasons[one] = Disconnected
	}
	return r.end(ctx, reasons)
}
