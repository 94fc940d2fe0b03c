// Package drogue asks Drogue Cloud's HTTP services who an API key belongs to and who may
// read an application. It is the source of access for an edge in a Drogue installation;
// package authz is the one for an edge by itself.
//
// What the services answer holds for a time, and for a longer one while they are away.
package drogue

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/authz"
	"canopy/shared/config"
)

const (
	// looks is how many times in the life of an answer open sockets are checked against
	// it. Most checks find it in memory.
	looks = 10
	// probePause is the pause between two attempts to reach a service for the first time.
	probePause = time.Second
	// nobody is an application that cannot exist, to ask about when all that matters is
	// whether there is an answer.
	nobody = "-"
	// maxName bounds the name of an application, in bytes.
	maxName = 255
)

// Source answers from Drogue's services. Any goroutine may ask; Run runs beside.
type Source struct {
	users    *service
	registry *service      // nil: an application that the users' service allows exists
	hold     time.Duration // lifetime of an answer
	stale    time.Duration // how long beyond that it counts while a service fails
	tick     time.Duration
	end      context.CancelFunc

	keys   *answers[owner]
	reads  *answers[bool]
	exists *answers[bool]

	authorizations *prometheus.CounterVec
	now            func() time.Time

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each tick
}

// owner is who an API key belongs to; the zero value says nobody.
type owner struct {
	User  string
	Roles []string
}

// New returns a source that asks the services of cfg, none of which is asked yet. Run must
// follow. The error says which of their addresses cannot be used.
func New(cfg config.Config, log *zap.Logger, reg prometheus.Registerer) (*Source, error) {
	calls := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "canopy_edge_drogue_call_seconds",
		Help:    "Questions to Drogue's services, retries included, by service and outcome: pass or error.",
		Buckets: []float64{0.005, 0.02, 0.1, 0.5, 2, 5},
	}, []string{"service", "outcome"})
	s := &Source{
		authorizations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drogue_client_user_authorization",
			Help: "Questions to Drogue whether somebody may read an application: pass, fail or error.",
		}, []string{"outcome"}),
		now:     time.Now,
		changed: make(chan struct{}),
	}
	for _, c := range []prometheus.Collector{calls, s.authorizations} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of Drogue's services: %w", err)
		}
	}
	life, end := context.WithCancel(context.Background())
	hold, stale := cfg.Edge.AccessCache, cfg.Edge.AccessStale
	s.end, s.hold, s.stale, s.tick = end, hold, stale, max(hold/looks, time.Millisecond)
	no := func(yes bool) bool { return !yes }
	s.keys = newAnswers(life, hold, stale, func(o owner) bool { return o.User == "" })
	s.reads, s.exists = newAnswers(life, hold, stale, no), newAnswers(life, hold, stale, no)
	var err error
	if s.users, err = newService(life, "user_auth", cfg.UserAuth, cfg.OAuth.IssuerURL, log, calls); err != nil {
		end()
		return nil, err
	}
	if cfg.Registry.URL != "" {
		if s.registry, err = newService(life, "registry", cfg.Registry, cfg.OAuth.IssuerURL, log, calls); err != nil {
			end()
			return nil, err
		}
	}
	return s, nil
}

// Checks returns the checks of readiness: for each service, whether it has answered since
// the start.
func (s *Source) Checks() map[string]func() error {
	checks := map[string]func() error{"user_auth": s.users.ready}
	if s.registry != nil {
		checks["registry"] = s.registry.ready
	}
	return checks
}

// VerifyKey returns the principal of an API key. The error wraps authn.ErrForbidden if the
// key is malformed or not known to Drogue, authn.ErrNotAsked if that would take a call and
// admit, unless it is nil, does not consent, and authn.ErrBusy if too many are asked about.
// The principal's name is the one that Drogue gives, which need not be the one that was used
// to sign in.
func (s *Source) VerifyKey(ctx context.Context, user, key string, admit func() bool) (authn.Principal, error) {
	p, _, err := s.verifyKey(ctx, strangers, admit, user, key)
	return p, err
}

// verifyKey is VerifyKey, and returns when what it goes by was asked.
func (s *Source) verifyKey(ctx context.Context, from lane, admit func() bool, user, key string) (authn.Principal, time.Time, error) {
	if !wellFormed(key) {
		return authn.Principal{}, time.Time{}, fmt.Errorf("%w: malformed key", authn.ErrForbidden)
	}
	id := sha256.Sum256([]byte(key))
	found, asked, err := s.keys.get(ctx, fmt.Sprintf("%x %s", id, user), from, admit, func(ctx context.Context) (owner, error) {
		return s.askOwner(ctx, from, user, key)
	})
	if err != nil {
		return authn.Principal{}, time.Time{}, err
	}
	if !authn.ValidUser(found.User) {
		return authn.Principal{}, time.Time{}, fmt.Errorf("%w: unknown key or user", authn.ErrForbidden)
	}
	return authn.Principal{
		Kind: authn.Key, User: found.User, Roles: found.Roles,
		KeyID: id, Login: authn.NewKey(user, key),
	}, asked, nil
}

// askOwner asks who an API key belongs to.
func (s *Source) askOwner(ctx context.Context, from lane, user, key string) (owner, error) {
	question := struct {
		User  string `json:"user_id"`
		Token string `json:"access_token"`
	}{user, key}
	var answer struct {
		Outcome json.RawMessage `json:"outcome"`
	}
	status, err := s.users.call(ctx, from, http.MethodPost, "/api/user/v1alpha1/authn", question, &answer)
	if err != nil {
		return owner{}, err
	}
	var known struct {
		Known *struct {
			User  string   `json:"user_id"`
			Roles []string `json:"roles"`
		}
	}
	switch {
	case string(answer.Outcome) == `"Unknown"`:
		return owner{}, nil
	case status == http.StatusOK && json.Unmarshal(answer.Outcome, &known) == nil && known.Known != nil:
		return owner{known.Known.User, authn.OwnRoles(known.Known.Roles)}, nil
	default:
		return owner{}, fmt.Errorf("ask user_auth: status %d without an outcome", status)
	}
}

// MayRead reports as what p, who signs in, may read an application, and when what that
// goes by was asked. For a principal with an API key it also asks whether that still is
// one, and goes by the roles that it has now. If admit is not nil, a call takes its
// consent, and the error wraps authn.ErrNotAsked without; it wraps authn.ErrBusy if too many
// are asked about. Any other error says that nobody can tell.
func (s *Source) MayRead(ctx context.Context, p authn.Principal, application string, admit func() bool) (as authz.Access, asked time.Time, err error) {
	from := users
	if p.Kind == authn.Anonymous {
		from = strangers
	}
	ok, asked, err := s.mayRead(ctx, from, admit, p, application)
	return accessOf(p, ok), asked, err
}

// accessOf is the access of p, to whom Drogue allows an application, or not. A user whom it
// allows one is a member: that an application is public allows it to those only who have not
// signed in.
func accessOf(p authn.Principal, allowed bool) authz.Access {
	switch {
	case !allowed:
		return authz.None
	case p.Kind == authn.Anonymous:
		return authz.Public
	default:
		return authz.Member
	}
}

// StillMayRead is MayRead for open sockets, which had access when it was asked for at known;
// the zero time stands for never. That counts until it must be asked for again, and for
// the stale time if there is no answer then, whatever else is in memory. An error says that
// nobody can tell, and did not for all that time.
func (s *Source) StillMayRead(ctx context.Context, p authn.Principal, application string, known time.Time) (as authz.Access, asked time.Time, err error) {
	if s.now().Before(known.Add(time.Duration(earliest * float64(s.hold)))) {
		return accessOf(p, true), known, nil
	}
	ok, asked, err := s.mayRead(ctx, sockets, nil, p, application)
	if err != nil && s.now().Before(known.Add(s.hold+s.stale)) {
		return accessOf(p, true), known, nil
	}
	return accessOf(p, ok), asked, err
}

func (s *Source) mayRead(ctx context.Context, from lane, admit func() bool, p authn.Principal, application string) (ok bool, asked time.Time, err error) {
	if !possible(application) {
		return false, s.now(), nil
	}
	asked = s.now()
	roles := p.Roles
	if p.Kind == authn.Key {
		user, key := p.Login.APIKey()
		now, at, err := s.verifyKey(ctx, from, admit, user, key)
		switch {
		case errors.Is(err, authn.ErrForbidden):
			return false, at, nil
		case err != nil:
			return false, at, err
		case now.User != p.User:
			return false, at, nil
		}
		roles, asked = now.Roles, earlier(asked, at)
	}
	ok, at, err := s.reads.get(ctx, fmt.Sprintf("%q %q %q", application, p.User, roles), from, admit, func(ctx context.Context) (bool, error) {
		return s.askRead(ctx, from, p.User, roles, application)
	})
	asked = earlier(asked, at)
	if err != nil || !ok || s.registry == nil {
		return ok, asked, err
	}
	ok, at, err = s.exists.get(ctx, application, from, admit, func(ctx context.Context) (bool, error) {
		status, err := s.registry.call(ctx, from, http.MethodGet, "/api/registry/v1alpha1/apps/"+url.PathEscape(application), nil, new(json.RawMessage))
		return status == http.StatusOK, err
	})
	return ok, earlier(asked, at), err
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// possible reports whether an application of that name can exist. Others are not asked
// about: JSON cannot hold them as they are, or they might make a service stumble.
func possible(application string) bool {
	return len(application) <= maxName && utf8.ValidString(application) &&
		!strings.ContainsFunc(application, unicode.IsControl)
}

// askRead asks whether a user, none if it is empty, may read an application.
func (s *Source) askRead(ctx context.Context, from lane, user string, roles []string, application string) (bool, error) {
	question := struct {
		Application string   `json:"application"`
		Permission  string   `json:"permission"`
		User        *string  `json:"user_id"`
		Roles       []string `json:"roles"`
	}{application, "Read", &user, append([]string{}, roles...)} // never null
	if user == "" {
		question.User = nil
	}
	var answer struct {
		Outcome string `json:"outcome"`
	}
	status, err := s.users.call(ctx, from, http.MethodPost, "/api/v1/user/authz", question, &answer)
	if err == nil && answer.Outcome != "allow" && answer.Outcome != "deny" {
		err = fmt.Errorf("ask user_auth: status %d without an outcome", status)
	}
	outcome := map[string]string{"allow": "pass", "deny": "fail"}[answer.Outcome]
	if err != nil {
		outcome = "error"
	}
	s.authorizations.WithLabelValues(outcome).Inc()
	return outcome == "pass", err
}

// Changed returns a channel that is closed when answers may have changed, which is many
// times in the life of one. Those that still hold are found in memory.
func (s *Source) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Run reaches for the services until each has answered once, and has open sockets checked,
// until ctx ends; then it ends all calls and returns nil.
func (s *Source) Run(ctx context.Context) error {
	var probes sync.WaitGroup
	defer probes.Wait()
	defer s.close()
	probes.Go(func() {
		probe(ctx, s.users, func() error {
			_, err := s.askRead(ctx, sockets, "", nil, nobody)
			return err
		})
	})
	if s.registry != nil {
		probes.Go(func() {
			probe(ctx, s.registry, func() error {
				_, err := s.registry.call(ctx, sockets, http.MethodGet, "/api/registry/v1alpha1/apps/"+nobody, nil, new(json.RawMessage))
				return err
			})
		})
	}
	ticker := time.NewTicker(s.tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			s.mu.Lock()
			close(s.changed)
			s.changed = make(chan struct{})
			s.mu.Unlock()
		}
	}
}

// probe asks a service again and again until it has answered anybody.
func probe(ctx context.Context, to *service, ask func() error) {
	ticker := time.NewTicker(probePause)
	defer ticker.Stop()
	for to.ready() != nil && ask() != nil {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// close ends all calls.
func (s *Source) close() {
	s.end()
	for _, to := range []*service{s.users, s.registry} {
		if to != nil {
			to.client.CloseIdleConnections()
			to.tokens.issuer.Close()
		}
	}
}
