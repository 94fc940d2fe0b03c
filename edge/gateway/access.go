package gateway

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/authz"
	"canopy/edge/internal/drogue"
	"canopy/edge/internal/guard"
	"canopy/edge/internal/session"
)

const (
	// vainBurst is how many questions in a row about access that is not there somebody may
	// cause who signs in, vainInterval how long it takes until it is one more. Those that
	// are answered from memory do not count, nor those about access that is there.
	vainBurst    = 100
	vainInterval = 100 * time.Millisecond
)

// asker is who causes questions about access: a user, or an address if nobody has signed in.
type asker struct {
	user    string
	address netip.Addr
}

func newAskers() *guard.Guard[asker] { return guard.New[asker](vainBurst, vainInterval, time.Now) }

// source knows the API keys and who may read what: the applications file, or Drogue's
// services.
type source interface {
	authn.KeyVerifier
	session.Authorizer
	// MayRead reports as what somebody who signs in may read an application, and when what
	// that goes by was asked. If admit is not nil, asking somebody for that takes its
	// consent, and the error wraps authn.ErrNotAsked without. It wraps authn.ErrBusy if too
	// many are asked about. Any other error means that nobody can tell.
	MayRead(ctx context.Context, p authn.Principal, application string, admit func() bool) (as authz.Access, asked time.Time, err error)
	// Run keeps the answers up to date until ctx ends.
	Run(ctx context.Context) error
}

// openAccess makes the source of access that the configuration names.
func (e *edge) openAccess(reg prometheus.Registerer) error {
	if e.cfg.UserAuth.URL == "" {
		file, err := authz.OpenFile(e.cfg.Edge.ApplicationsFile, e.log, reg)
		e.access = file
		return err
	}
	services, err := drogue.New(e.cfg, e.log, reg)
	if err != nil {
		return err
	}
	for name, check := range services.Checks() {
		e.health.AddCheck(name, check)
	}
	e.access = services
	return nil
}

// grant is access that somebody was found to have.
type grant struct {
	as      authz.Access
	asked   time.Time       // when that was asked
	changed <-chan struct{} // closed if it may have changed since
}

// authorize says why p may not read application, or grants that.
func (a *admission) authorize(r *http.Request, p authn.Principal, application string) (granted grant, _ *refusal) {
	granted.changed = a.access.Changed() // before asking, so that no change is missed
	by := asker{user: p.User}
	if p.Kind == authn.Anonymous {
		by.address = network(a.clientAddress(r)).Addr()
	}
	booked, wait := 0, time.Duration(0)
	as, asked, err := a.access.MayRead(r.Context(), p, application, func() bool {
		if wait = a.askers.Book(by); wait == 0 {
			booked++
		}
		return wait == 0
	})
	// A client that does not wait for its answer has caused the question all the same.
	if as.Granted() || err != nil && r.Context().Err() == nil {
		for range booked {
			a.askers.Return(by)
		}
	}
	switch {
	case errors.Is(err, authn.ErrNotAsked):
		a.limits.vain.Inc()
		return grant{}, tooMany("Too many requests for applications that you may not read", seconds(wait))
	case errors.Is(err, authn.ErrBusy):
		return grant{}, a.limits.busy()
	case err != nil:
		return grant{}, internal("Authorization is not available", err)
	case !as.Granted():
		return grant{}, notFound(application)
	}
	granted.as, granted.asked = as, asked
	return granted, nil
}
