package session

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/authz"
	"canopy/edge/internal/ws"
	"canopy/shared/config"
)

// answers answers questions about access, and counts them.
type answers struct {
	mu    sync.Mutex
	asked map[string]int
}

func (v *answers) StillMayRead(_ context.Context, p authn.Principal, application string, _ time.Time) (authz.Access, time.Time, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.asked == nil {
		v.asked = make(map[string]int)
	}
	v.asked[fmt.Sprint(p, p.Roles, application)]++
	return authz.Member, time.Now(), nil
}

func (v *answers) Changed() <-chan struct{} { return nil }

func newTestRegistry(n Authenticator, z Authorizer) *Registry {
	return NewRegistry(ws.NewEngine(ws.Config{}), n, z, config.Ping{Interval: time.Minute, Timeout: time.Minute},
		zap.NewNop(), prometheus.NewRegistry())
}

func (r *Registry) added(t testing.TB, application string, p authn.Principal) *Session {
	t.Helper()
	s := r.New(application, p)
	if !r.Add(s, 1<<20, time.Now()) {
		t.Fatal("the session was not added")
	}
	return s
}

func TestAHundredThousandSocketsOfOneUserCostOneQuestion(t *testing.T) {
	asked := &answers{}
	r := newTestRegistry(nil, asked)
	alice := authn.Principal{Kind: authn.Token, User: "alice", Roles: []string{"ops"}}
	for n := range 100_000 {
		p := alice
		p.Expires = time.Now().Add(time.Duration(n) * time.Second)
		r.added(t, "app", p)
	}
	r.recheckAll(t.Context())
	if len(asked.asked) != 1 || asked.asked["token alice [ops]app"] != 1 {
		t.Errorf("asked %v", asked.asked)
	}
}

func TestPrincipalsThatDifferInWhatCountsAreAskedAboutApart(t *testing.T) {
	asked := &answers{}
	r := newTestRegistry(nil, asked)
	for _, p := range []authn.Principal{
		{},
		{Kind: authn.Token, User: "alice"},
		{Kind: authn.Key, User: "alice"},
		{Kind: authn.Key, User: "alice", KeyID: [32]byte{1}},
		{Kind: authn.Token, User: "alice", Roles: []string{"a", "b"}},
		{Kind: authn.Token, User: "alice", Roles: []string{`a" "b`}},
		{Kind: authn.Token, User: "bob"},
	} {
		for _, application := range []string{"app", "other"} {
			r.added(t, application, p)
			r.added(t, application, p)
		}
	}
	if n := r.accesses.len(); n != 14 {
		t.Errorf("%d questions, want 14", n)
	}
}

func TestAQuestionEndsWithItsLastSession(t *testing.T) {
	r := newTestRegistry(nil, &answers{})
	alice := authn.Principal{Kind: authn.Token, User: "alice"}
	one, two := r.added(t, "app", alice), r.added(t, "app", alice)
	withRole := alice
	withRole.Roles = []string{"ops"}
	r.accesses.join(one, withRole, time.Time{})
	r.accesses.join(one, withRole, time.Time{})
	if n := r.accesses.len(); n != 2 {
		t.Errorf("%d questions after the roles of one changed, want 2", n)
	}
	r.remove(two)
	r.remove(two)
	r.remove(one)
	r.accesses.join(one, alice, time.Time{}) // a token that was verified too late
	if n := r.accesses.len(); n != 0 {
		t.Errorf("%d questions after all have left", n)
	}
}
