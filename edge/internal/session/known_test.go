package session

import (
	"context"
	"testing"
	"time"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/authz"
)

// memory says yes, as of when it is told to, and remembers what was known before.
type memory struct {
	asked time.Time // of its answers
	known []time.Time
}

func (o *memory) StillMayRead(_ context.Context, _ authn.Principal, _ string, known time.Time) (authz.Access, time.Time, error) {
	o.known = append(o.known, known)
	return authz.Member, o.asked, nil
}

func (o *memory) Changed() <-chan struct{} { return nil }

func TestEachQuestionRemembersItsLastAnswerThatSaidYes(t *testing.T) {
	o := &memory{}
	r := newTestRegistry(nil, o)
	login := time.Now()
	s := r.New("app", authn.Principal{Kind: authn.Token, User: "alice"})
	if !r.Add(s, 1, login) {
		t.Fatal("the session was not added")
	}
	for _, asked := range []time.Time{login, login.Add(time.Minute), login} {
		o.asked = asked
		r.recheckAll(t.Context())
	}
	r.recheckAll(t.Context())
	latest := login.Add(time.Minute)
	for n, want := range []time.Time{login, login, latest, latest} {
		if !o.known[n].Equal(want) {
			t.Errorf("question %d came with what was known %v after the login, want %v", n, o.known[n].Sub(login), want.Sub(login))
		}
	}
}
