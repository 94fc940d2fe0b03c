package authn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"canopy/shared/config"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"
)

// oneKey knows the key "secret" of alice.
type oneKey struct{ broken error }

func (k oneKey) VerifyKey(_ context.Context, user, key string, _ func() bool) (Principal, error) {
	if k.broken != nil {
		return Principal{}, k.broken
	}
	if user != "alice" || key != "secret" {
		return Principal{}, ErrForbidden
	}
	return Principal{Kind: Key, User: user}, nil
}

// startAuthenticator runs one until the test ends.
func startAuthenticator(t testing.TB, cfg config.OAuth) *Authenticator {
	t.Helper()
	a, err := New(cfg, oneKey{}, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return a
}

// waitReady waits until the issuer's keys are there.
func waitReady(t testing.TB, a *Authenticator) {
	t.Helper()
	waitFor(t, "keys of the issuer", func() bool { return a.Ready() == nil })
}

// waitFor waits for a condition.
func waitFor(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("no %s after 20 s", what)
		}
	}
}

// counted reads a counter.
func counted(t testing.TB, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func TestKindsOfCredentialsSignInAsTheirKind(t *testing.T) {
	a := startAuthenticator(t, config.OAuth{})
	if err := a.Ready(); err != nil {
		t.Errorf("not ready without an issuer: %v", err)
	}
	for _, c := range []struct {
		name string
		from Credentials
		want Principal
		err  error
	}{
		{"nothing", Credentials{}, Principal{}, nil},
		{"a key", Credentials{kind: Key, user: "alice", secret: "secret"}, Principal{Kind: Key, User: "alice"}, nil},
		{"a wrong key", Credentials{kind: Key, user: "alice", secret: "wrong"}, Principal{}, ErrForbidden},
		{"a key of a role", Credentials{kind: Key, user: "role:x", secret: "secret"}, Principal{}, ErrForbidden},
		{"a key of a further issuer's user", Credentials{kind: Key, user: "1/alice", secret: "secret"}, Principal{}, ErrForbidden},
		{"a token without an issuer", Credentials{kind: Token, secret: "a.b.c"}, Principal{}, ErrForbidden},
	} {
		p, err := a.Authenticate(t.Context(), c.from, netip.Addr{})
		if !p.Same(c.want) || !errors.Is(err, c.err) {
			t.Errorf("%s: got %v, %v", c.name, p, err)
		}
	}
	for outcome, want := range map[string]float64{"pass": 1, "fail": 4, "error": 0} {
		if got := counted(t, a.outcomes.WithLabelValues(outcome)); got != want {
			t.Errorf("metric counts %v %s, want %v", got, outcome, want)
		}
	}
}

func TestBrokenKeySourceIsUnavailableNotForbidden(t *testing.T) {
	a, err := New(config.OAuth{}, oneKey{broken: errors.New("disk gone")}, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Authenticate(t.Context(), Credentials{kind: Key, user: "alice", secret: "secret"}, netip.Addr{})
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrForbidden) {
		t.Errorf("got %v", err)
	}
}

func TestRefreshTakesNewerTokensOfTheSameUserOnly(t *testing.T) {
	i := newTestIssuer(t)
	i.keys = append(i.keys, publicJWK(t, rsaKey(t, "one").Public(), "one", jwkset.UseSig))
	a := readyAuthenticator(t, i)
	token := func(user string) string {
		claims := i.goodClaims()
		claims["sub"] = user
		return sign(t, jwt.SigningMethodRS256, rsaKey(t, "one"), "one", claims)
	}
	alice := Principal{Kind: Token, User: "alice", Expires: time.Now()}
	p, err := a.Refresh(t.Context(), alice, token("alice"))
	if err != nil || !p.Same(alice) || !p.Expires.After(alice.Expires) {
		t.Errorf("own token: %v, %v", p, err)
	}
	for name, c := range map[string]struct {
		p     Principal
		token string
	}{
		"token of another user":            {alice, token("bob")},
		"no token":                         {alice, "nonsense"},
		"session with a key":               {Principal{Kind: Key, User: "alice"}, token("alice")},
		"session without any credentials":  {Principal{}, token("alice")},
		"token of another case, same name": {Principal{Kind: Token, User: "Alice"}, token("alice")},
	} {
		if _, err := a.Refresh(t.Context(), c.p, c.token); !errors.Is(err, ErrForbidden) {
			t.Errorf("%s: got %v, want ErrForbidden", name, err)
		}
	}
}

func TestConfigurationThatCannotWorkIsRefused(t *testing.T) {
	clients := func(issuer string) map[string]config.OAuthClient {
		return map[string]config.OAuthClient{"0": {ClientID: "canopy", IssuerURL: issuer}}
	}
	for name, c := range map[string]struct {
		cfg  config.OAuth
		want string
	}{
		"issuer without a client":  {config.OAuth{IssuerURL: "https://a.example"}, "CLIENT_ID"},
		"client without an issuer": {config.OAuth{Clients: clients("")}, "OAUTH__ISSUER_URL"},
		"client without an id": {config.OAuth{IssuerURL: "https://a.example",
			Clients: map[string]config.OAuthClient{"0": {}}}, "OAUTH__CLIENTS__0__CLIENT_ID"},
		"no URL":            {config.OAuth{Clients: clients("keycloak")}, "https://host/path"},
		"another scheme":    {config.OAuth{Clients: clients("ftp://a.example")}, "https://host/path"},
		"URL with a query":  {config.OAuth{Clients: clients("https://a.example/?x=y")}, "query"},
		"URL with a user":   {config.OAuth{Clients: clients("https://me:pass@a.example/")}, "user"},
		"URL without sense": {config.OAuth{Clients: clients("https://me:pass@a b/%zz")}, "parsed"},
	} {
		_, err := New(c.cfg, oneKey{}, zap.NewNop(), prometheus.NewRegistry())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want something about %s", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "pass@") {
			t.Errorf("%s: the error holds a password: %v", name, err)
		}
	}
}

func TestPrintingShowsNoSecret(t *testing.T) {
	c := Credentials{kind: Key, user: "alice", secret: "hunter2"}
	p := Principal{Kind: Key, User: "alice", KeyID: [32]byte{0xab, 0xcd}, Login: c}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, c); strings.Contains(got, "hunter2") {
			t.Errorf("%s prints %s", verb, got)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, p); got != "key alice" {
			t.Errorf("%s prints the principal as %s", verb, got)
		}
	}
	if got, err := json.Marshal(p); err != nil || strings.Contains(string(got), "hunter2") {
		t.Errorf("JSON of the principal: %s, %v", got, err)
	}
}
