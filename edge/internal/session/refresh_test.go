package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"canopy/edge/internal/authn"
)

// tokens verifies each token in a time, and notes it. A token gives its words as roles.
type tokens struct {
	takes time.Duration

	mu       sync.Mutex
	verified []string
}

func (k *tokens) Refresh(ctx context.Context, p authn.Principal, token string) (authn.Principal, error) {
	k.mu.Lock()
	k.verified = append(k.verified, token)
	k.mu.Unlock()
	if k.takes > 0 {
		select {
		case <-time.After(k.takes):
		case <-ctx.Done():
			return authn.Principal{}, errors.New("the edge ends")
		}
	}
	p.Roles = strings.Fields(token)
	return p, nil
}

func (k *tokens) all() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.verified)
}

// verifying runs do beside so many workers, in a bubble of its own.
func verifying(t *testing.T, workers int, k *tokens, do func(r *Registry)) {
	synctest.Test(t, func(t *testing.T) {
		r := newTestRegistry(k, &answers{})
		ctx, stop := context.WithCancel(context.Background())
		var running sync.WaitGroup
		for range workers {
			running.Go(func() { r.verify(ctx) })
		}
		do(r)
		stop()
		running.Wait()
	})
}

func signedIn(user string) authn.Principal { return authn.Principal{Kind: authn.Token, User: user} }

func TestTenThousandSocketsThatRefreshInOneSecondAreAllServed(t *testing.T) {
	const sockets = 10_000
	for _, users := range []int{1, sockets} {
		t.Run(fmt.Sprintf("of %d users", users), func(t *testing.T) {
			k := &tokens{takes: time.Millisecond}
			verifying(t, refreshWorkers, k, func(r *Registry) {
				all := make([]*Session, sockets)
				for n := range all {
					all[n] = r.added(t, "app", signedIn(fmt.Sprint("user", n%users)))
					r.refresh(all[n], "fresh")
				}
				if n := r.refreshes.len(); n != sockets {
					t.Errorf("%d wait at once, want %d", n, sockets)
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				for n, s := range all {
					if p := s.Principal(); s.state.Load() != open || len(p.Roles) != 1 {
						t.Fatalf("socket %d is open: %v, roles %q", n, s.state.Load() == open, p.Roles)
					}
				}
				if n := r.refreshes.len(); n != 0 {
					t.Errorf("%d are still held after all rests are over", n)
				}
			})
			if n := len(k.all()); n != sockets {
				t.Errorf("%d tokens were verified, want %d", n, sockets)
			}
		})
	}
}

func TestAUserWithManySocketsHoldsNobodyElseUp(t *testing.T) {
	k := &tokens{takes: 10 * time.Millisecond}
	verifying(t, 1, k, func(r *Registry) {
		for range 1000 {
			r.refresh(r.added(t, "app", signedIn("many")), "many")
		}
		synctest.Wait()
		r.refresh(r.added(t, "app", signedIn("one")), "one")
		r.refresh(r.added(t, "app", signedIn("two")), "two")
		time.Sleep(50 * time.Millisecond)
	})
	if got, want := k.all()[:5], []string{"many", "many", "one", "two", "many"}; !slices.Equal(got, want) {
		t.Errorf("verified %q first, want %q", got, want)
	}
}

func TestOfTheTokensThatComeDuringARefreshTheLastIsVerifiedASecondLater(t *testing.T) {
	k := &tokens{takes: 100 * time.Millisecond}
	verifying(t, 2, k, func(r *Registry) {
		s := r.added(t, "app", signedIn("alice"))
		r.refresh(s, "1")
		synctest.Wait()
		for _, token := range []string{"2", "3"} {
			r.refresh(s, token)
		}
		time.Sleep(600 * time.Millisecond)
		r.refresh(s, "4")
		time.Sleep(499 * time.Millisecond) // 1.099 s in all, the first verification included
		synctest.Wait()
		if got := k.all(); !slices.Equal(got, []string{"1"}) {
			t.Errorf("verified %q within the second, want the first alone", got)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if got := k.all(); !slices.Equal(got, []string{"1", "4"}) {
			t.Errorf("verified %q, want the first and the last", got)
		}
		time.Sleep(time.Second)
		if p := s.Principal(); s.state.Load() != open || !slices.Equal(p.Roles, []string{"4"}) {
			t.Errorf("the session is open: %v, with the principal of %q", s.state.Load() == open, p.Roles)
		}
	})
}

func TestATokenOfASessionThatIsGoneIsForgotten(t *testing.T) {
	k := &tokens{takes: 10 * time.Millisecond}
	verifying(t, 1, k, func(r *Registry) {
		all := make([]*Session, 100)
		for n := range all {
			all[n] = r.added(t, "app", signedIn("alice"))
			r.refresh(all[n], fmt.Sprint(n))
		}
		synctest.Wait()
		for _, s := range all { // one is being verified, the others wait
			s.state.Store(gone)
			r.remove(s)
			r.refresh(s, "late")
		}
		if n := r.refreshes.len(); n != 0 {
			t.Errorf("%d are held of sessions that are gone", n)
		}
		time.Sleep(5 * time.Second)
		if n := len(r.refreshes.lines) + r.refreshes.turns.Len() + r.refreshes.resting.Len(); n != 0 {
			t.Errorf("%d lines and rests are left", n)
		}
	})
	if got := k.all(); len(got) != 1 {
		t.Errorf("verified %q, want the first alone", got)
	}
}

func TestARefreshedTokenAsksAboutAccessOnlyIfItMakesAnotherQuestion(t *testing.T) {
	k := &tokens{}
	verifying(t, 1, k, func(r *Registry) {
		s := r.added(t, "app", authn.Principal{Kind: authn.Token, User: "alice", Roles: []string{"a"}})
		asked := r.authz.(*answers)
		r.refresh(s, "a")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := len(asked.asked); n != 0 {
			t.Errorf("%d questions for a token that changes nothing", n)
		}
		r.refresh(s, "b")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := len(asked.asked); n != 1 {
			t.Errorf("%d questions for a token with other roles, want 1", n)
		}
	})
}
