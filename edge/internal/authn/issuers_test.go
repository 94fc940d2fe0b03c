package authn

import (
	"errors"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"canopy/shared/config"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// twoIssuers are two issuers whose keys have the same id, and an edge that knows both:
// the first as client 2, the second as clients 7 and 10.
func twoIssuers(t *testing.T) (first, second *testIssuer, a *Authenticator) {
	t.Helper()
	first, second = newTestIssuer(t), newTestIssuer(t)
	first.keys = append(first.keys, publicJWK(t, rsaKey(t, "one").Public(), "same", jwkset.UseSig))
	second.keys = append(second.keys, publicJWK(t, rsaKey(t, "other").Public(), "same", jwkset.UseSig))
	a = startAuthenticator(t, config.OAuth{IssuerURL: first.server.URL, Clients: map[string]config.OAuthClient{
		"10": {ClientID: "also", IssuerURL: second.server.URL},
		"7":  {ClientID: "canopy", IssuerURL: second.server.URL},
		"2":  {ClientID: "canopy"},
	}})
	waitReady(t, a)
	return first, second, a
}

func TestUsersAndRolesOfSeveralIssuersNeverMeet(t *testing.T) {
	first, second, a := twoIssuers(t)
	for _, c := range []struct {
		name  string
		from  *testIssuer
		key   string
		aud   string
		roles []string
		want  Principal
	}{
		{"the first issuer's are bare", first, "one", "canopy", []string{"ops", "a/b", "7/ops", "10/ops"},
			Principal{User: "alice", Roles: []string{"a/b", "ops"}}},
		{"the second one's carry its client's number", second, "other", "canopy", []string{"ops", "7/ops"},
			Principal{User: "7/alice", Roles: []string{"7/7/ops", "7/ops"}}},
		{"and the same number with its other client", second, "other", "also", []string{"ops"},
			Principal{User: "7/alice", Roles: []string{"7/ops"}}},
	} {
		claims := c.from.goodClaims()
		claims["aud"], claims["realm_access"] = c.aud, map[string]any{"roles": c.roles}
		p, err := a.Authenticate(t.Context(), Credentials{kind: Token, secret: sign(t, jwt.SigningMethodRS256, rsaKey(t, c.key), "same", claims)}, netip.Addr{})
		if err != nil || p.User != c.want.User || !reflect.DeepEqual(p.Roles, c.want.Roles) {
			t.Errorf("%s: got %v %q, %v", c.name, p, p.Roles, err)
		}
	}
}

func TestTokenOfOneIssuerSignedByTheKeyOfAnotherIsForbidden(t *testing.T) {
	first, second, a := twoIssuers(t)
	for name, c := range map[string]struct {
		says *testIssuer
		key  string
		aud  string
	}{
		"first, signed by the second":  {first, "other", "canopy"},
		"second, signed by the first":  {second, "one", "canopy"},
		"first, for the second's only": {first, "one", "also"},
	} {
		claims := c.says.goodClaims()
		claims["aud"] = c.aud
		_, err := a.Authenticate(t.Context(), Credentials{kind: Token, secret: sign(t, jwt.SigningMethodRS256, rsaKey(t, c.key), "same", claims)}, netip.Addr{})
		if !errors.Is(err, ErrForbidden) {
			t.Errorf("%s: got %v, want ErrForbidden", name, err)
		}
	}
	if n := first.fetched() + second.fetched(); n != 2 {
		t.Errorf("%d fetches of keys, want the first of each issuer", n)
	}
}

func TestSubThatLooksLikeAnotherIdentityIsRefusedByEveryIssuer(t *testing.T) {
	first, second, a := twoIssuers(t)
	for _, sub := range []string{"role:ops", "7/alice", "/", "a/b", ""} {
		for from, key := range map[*testIssuer]string{first: "one", second: "other"} {
			claims := from.goodClaims()
			claims["sub"] = sub
			_, err := a.Authenticate(t.Context(), Credentials{kind: Token, secret: sign(t, jwt.SigningMethodRS256, rsaKey(t, key), "same", claims)}, netip.Addr{})
			if !errors.Is(err, ErrForbidden) {
				t.Errorf("sub %q: got %v, want ErrForbidden", sub, err)
			}
		}
	}
}

func TestReadinessNamesTheIssuerThatIsMissingAndTheOtherOneWorks(t *testing.T) {
	first, second := newTestIssuer(t), newTestIssuer(t)
	first.publish(t, "one")
	second.set(func(i *testIssuer) { i.down = true })
	a := startAuthenticator(t, config.OAuth{Clients: map[string]config.OAuthClient{
		"0": {ClientID: "canopy", IssuerURL: first.server.URL},
		"1": {ClientID: "canopy", IssuerURL: second.server.URL},
	}})
	waitFor(t, "keys of the first issuer", func() bool { return first.of(t, a).keys.ready() == nil })
	waitFor(t, "failed attempt", func() bool {
		err := a.Ready()
		return err != nil && strings.Contains(err.Error(), second.server.URL) && strings.Contains(err.Error(), "status 503")
	})
	if err := a.Ready(); err == nil || strings.Contains(err.Error(), first.server.URL) {
		t.Errorf("readiness says %v", err)
	}
	if _, err := a.Authenticate(t.Context(), first.tokenOf(t, "one"), netip.Addr{}); err != nil {
		t.Errorf("token of the issuer that is there: %v", err)
	}
}

func TestTenComesBehindNine(t *testing.T) {
	clients := make(map[string]config.OAuthClient)
	for n := range 12 {
		clients[strconv.Itoa(n)] = config.OAuthClient{}
	}
	for n, got := range numbers(clients) {
		if got != strconv.Itoa(n) {
			t.Errorf("place %d has client %s", n, got)
		}
	}
}
