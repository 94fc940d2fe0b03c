package authn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"canopy/shared/config"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// KeyVerifier knows the API keys.
type KeyVerifier interface {
	// VerifyKey returns the principal of an API key. A key counts only with its own user
	// and until it expires; otherwise the error wraps ErrForbidden. To ask somebody for
	// that takes the consent of admit, and the error wraps ErrNotAsked without, and ErrBusy
	// if too many are asked about. Any other error means that nobody can tell. Any goroutine may call it.
	VerifyKey(ctx context.Context, user, key string, admit func() bool) (Principal, error)
}

// Authenticator finds out who a client is. Any goroutine may use it; Run runs beside.
type Authenticator struct {
	issuers  map[string]*issuer // by name
	tokens   *verifier
	apiKeys  KeyVerifier
	guard    *keyGuard
	outcomes *prometheus.CounterVec
}

// New returns an authenticator for API keys that verify knows, and for tokens of the
// issuers of cfg. Without an issuer every token is refused. The error lists everything
// that is wrong with cfg.
func New(cfg config.OAuth, verify KeyVerifier, log *zap.Logger, reg prometheus.Registerer) (*Authenticator, error) {
	return newAuthenticator(cfg, verify, log, reg, nil)
}

// newAuthenticator is New with a transport to the issuers; nil means the usual one.
func newAuthenticator(cfg config.OAuth, verify KeyVerifier, log *zap.Logger, reg prometheus.Registerer, transport http.RoundTripper) (*Authenticator, error) {
	outcomes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "drogue_client_user_authentication_access_token",
		Help: "Sign-ins with a token or an API key: pass, fail, or error if nobody could tell.",
	}, []string{"outcome"})
	refreshes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "canopy_edge_issuer_refresh",
		Help: "Attempts to fetch the keys of an OpenID issuer, by the number of its first client: pass or error.",
	}, []string{"issuer", "outcome"})
	for _, c := range []prometheus.Collector{outcomes, refreshes} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of sign-ins: %w", err)
		}
	}
	issuers, err := newIssuers(cfg, log, refreshes, transport)
	if err != nil {
		return nil, err
	}
	return &Authenticator{
		issuers: issuers, tokens: newVerifier(issuers), apiKeys: verify,
		guard: newKeyGuard(time.Now), outcomes: outcomes,
	}, nil
}

// Run fetches the issuers' keys and keeps them fresh until ctx ends, then returns nil. An
// issuer that is away is asked again and again; meanwhile its last keys count.
func (a *Authenticator) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, i := range a.issuers {
		running.Go(func() {
			i.keys.run(ctx)
			i.Close()
		})
	}
	<-ctx.Done()
	running.Wait()
	return nil
}

// Ready returns nil if the tokens of every issuer can be verified, and otherwise names
// the issuers whose keys are missing. Once it was nil it stays so.
func (a *Authenticator) Ready() error {
	var missing []error
	for _, address := range slices.Sorted(maps.Keys(a.issuers)) {
		if err := a.issuers[address].keys.ready(); err != nil {
			missing = append(missing, fmt.Errorf("no keys of the OpenID issuer %s yet: %w", address, err))
		}
	}
	return join(missing)
}

// join makes one error of several, on one line, and nil of none.
func join(errs []error) error {
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	if len(texts) == 0 {
		return nil
	}
	return errors.New(strings.Join(texts, "; "))
}

// Authenticate returns who brings these credentials from that address. It may wait for an
// issuer, but at most a second, and only for a token whose key is unknown; and as long for
// its turn, if it is a token from an address of many forgeries. The error wraps ErrForbidden,
// or ErrUnavailable, with ErrBusy if that is why, or is a *TooMany: an address from which many
// API keys were wrong is told to wait instead, and is not asked about. A right key that is
// known here counts all the same, since others may share the address. Wrong keys of a user
// whose keys were often wrong, wherever they come from, are a *TooMany as well, and so are
// tokens whose turn does not come.
func (a *Authenticator) Authenticate(ctx context.Context, c Credentials, from netip.Addr) (Principal, error) {
	switch c.kind {
	case Token:
		return a.count(a.verifyToken(ctx, c.secret, from))
	case Key:
		return a.count(a.verifyKey(ctx, c.user, c.secret, from))
	default:
		return Principal{}, nil
	}
}

// Refresh returns the principal of a newer token of the same user, with its roles and
// expiry. The error wraps ErrForbidden, also if p did not sign in with a token, or
// ErrUnavailable.
//
// Like Authenticate it may wait for up to a second, and computes a signature: call it
// from a worker, not from a callback of the poller. However many tokens come, together
// they wait for no more than the first second of each attempt to fetch keys.
func (a *Authenticator) Refresh(ctx context.Context, p Principal, token string) (Principal, error) {
	if p.Kind != Token {
		return Principal{}, fmt.Errorf("%w: session did not sign in with a token", ErrForbidden)
	}
	fresh, err := a.count(a.verifyToken(ctx, token, netip.Addr{}))
	if err != nil {
		return Principal{}, err
	}
	if !fresh.Same(p) {
		return Principal{}, fmt.Errorf("%w: token of another user", ErrForbidden)
	}
	return fresh, nil
}

// count adds the outcome of a sign-in to the metric and hands it on.
func (a *Authenticator) count(p Principal, err error) (Principal, error) {
	outcome := "pass"
	switch {
	case errors.Is(err, ErrForbidden), errors.As(err, new(*TooMany)):
		outcome = "fail"
	case err != nil:
		outcome = "error"
	}
	a.outcomes.WithLabelValues(outcome).Inc()
	return p, err
}

// verifyToken returns the principal of a token.
func (a *Authenticator) verifyToken(ctx context.Context, token string, from netip.Addr) (Principal, error) {
	if len(a.issuers) == 0 {
		return Principal{}, fmt.Errorf("%w: no OpenID issuer is configured", ErrForbidden)
	}
	return a.tokens.verify(ctx, token, from)
}

// verifyKey returns the principal of an API key.
func (a *Authenticator) verifyKey(ctx context.Context, user, key string, from netip.Addr) (Principal, error) {
	if !ValidUser(user) {
		return Principal{}, fmt.Errorf("%w: no user name", ErrForbidden)
	}
	attempt := a.guard.attempt(from, user)
	p, err := a.apiKeys.VerifyKey(ctx, user, key, attempt.book)
	switch {
	case errors.Is(err, ErrForbidden):
		// What memory, or the call of another attempt, has told is a failure, too.
		if !attempt.book() {
			return Principal{}, &TooMany{RetryAfter: attempt.wait}
		}
		if wait := attempt.bookName(); wait > 0 {
			return Principal{}, &TooMany{RetryAfter: wait, Everywhere: true}
		}
		return Principal{}, fmt.Errorf("verify API key: %w", err)
	case errors.Is(err, ErrNotAsked):
		return Principal{}, &TooMany{RetryAfter: attempt.wait}
	case err != nil:
		if ctx.Err() == nil { // a client that does not wait has caused the call all the same
			attempt.giveBack()
		}
		return Principal{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	attempt.giveBack()
	return p, nil
}
