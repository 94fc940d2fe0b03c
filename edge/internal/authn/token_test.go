package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"canopy/shared/config"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// readyAuthenticator has fetched the issuer's keys.
func readyAuthenticator(t testing.TB, i *testIssuer) *Authenticator {
	t.Helper()
	a := startAuthenticator(t, i.config())
	waitReady(t, a)
	return a
}

func TestTokenOfTheIssuerSignsIn(t *testing.T) {
	i := newTestIssuer(t)
	i.keys = append(i.keys, publicJWK(t, rsaKey(t, "one").Public(), "one", jwkset.UseSig))
	a := readyAuthenticator(t, i)
	exp := time.Now().Add(time.Hour).Truncate(time.Second)
	claims := i.goodClaims()
	claims["exp"] = exp.Unix()
	claims["aud"] = []string{"account", "canopy"}
	claims["azp"] = "canopy"
	claims["realm_access"] = map[string]any{"roles": []string{"operators", "b"}}
	claims["resource_access"] = map[string]any{
		"services": map[string]any{"roles": []string{"a"}},
		"drogue":   map[string]any{"roles": []string{"b"}},
		"Drogue":   map[string]any{"roles": []string{"not this"}},
		"account":  map[string]any{"roles": []string{"nor this"}},
	}
	p, err := a.Authenticate(t.Context(), Credentials{kind: Token, secret: sign(t, jwt.SigningMethodRS256, rsaKey(t, "one"), "one", claims)}, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	want := Principal{Kind: Token, User: "alice", Roles: []string{"a", "b", "operators"}, Expires: exp}
	if !p.Expires.Equal(exp) {
		t.Errorf("expires %v, want %v", p.Expires, exp)
	}
	p.Expires = exp
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got %+v, want %+v", p, want)
	}
}

func TestEachListedAlgorithmSignsIn(t *testing.T) {
	i := newTestIssuer(t)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]any{"EdDSA": ed}
	for alg, curve := range map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[alg] = key
	}
	for _, alg := range algorithms {
		if keys[alg] == nil {
			keys[alg] = rsaKey(t, "one")
		}
		public := keys[alg].(crypto.Signer).Public()
		i.keys = append(i.keys, publicJWK(t, public, "kid-"+alg, jwkset.UseSig))
	}
	a := readyAuthenticator(t, i)
	for _, alg := range algorithms {
		token := sign(t, jwt.GetSigningMethod(alg), keys[alg], "kid-"+alg, i.goodClaims())
		if _, err := a.Authenticate(t.Context(), Credentials{kind: Token, secret: token}, netip.Addr{}); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
}

// refuses asks for each token and wants ErrForbidden, without a part of the token in it,
// and without a fetch of keys.
func refuses(t *testing.T, a *Authenticator, i *testIssuer, tokens map[string]string) {
	t.Helper()
	for name, token := range tokens {
		_, err := a.Authenticate(t.Context(), Credentials{kind: Token, secret: token}, netip.Addr{})
		if !errors.Is(err, ErrForbidden) {
			t.Errorf("%s: got %v, want ErrForbidden", name, err)
			continue
		}
		for part := range strings.SplitSeq(token, ".") {
			if len(part) > 3 && strings.Contains(err.Error(), part) {
				t.Errorf("%s: the error repeats the token: %v", name, err)
			}
		}
	}
	if n := i.fetched(); n != 1 {
		t.Errorf("tokens without an unknown key id caused %d fetches of keys, want the first one alone", n)
	}
}

func TestTokenWithoutAGoodSignatureIsForbidden(t *testing.T) {
	i := newTestIssuer(t)
	one, other := rsaKey(t, "one"), rsaKey(t, "other")
	i.keys = append(i.keys,
		publicJWK(t, one.Public(), "one", ""),
		publicJWK(t, other.Public(), "for encryption", jwkset.UseEnc))
	a := readyAuthenticator(t, i)

	der, err := x509.MarshalPKIXPublicKey(one.Public())
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	critical := jwt.NewWithClaims(jwt.SigningMethodRS256, i.goodClaims())
	critical.Header["kid"], critical.Header["crit"] = "one", []string{"b64"}
	criticalToken, err := critical.SignedString(one)
	if err != nil {
		t.Fatal(err)
	}
	good := sign(t, jwt.SigningMethodRS256, one, "one", i.goodClaims())
	if _, err := a.Authenticate(t.Context(), Credentials{kind: Token, secret: good}, netip.Addr{}); err != nil {
		t.Fatalf("the token that others are made from: %v", err)
	}
	parts := strings.Split(good, ".")
	bob := i.goodClaims()
	bob["sub"] = "bob"
	bobsParts := strings.Split(sign(t, jwt.SigningMethodRS256, other, "one", bob), ".")

	refuses(t, a, i, map[string]string{
		"no token at all":          "nonsense",
		"two parts":                parts[0] + "." + parts[1],
		"five parts, as encrypted": good + ".x.y",
		"alg none":                 sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "one", i.goodClaims()),
		"HS256 with the PEM":       sign(t, jwt.SigningMethodHS256, publicPEM, "one", i.goodClaims()),
		"HS256 with the DER":       sign(t, jwt.SigningMethodHS256, der, "one", i.goodClaims()),
		"another key":              sign(t, jwt.SigningMethodRS256, other, "one", i.goodClaims()),
		"another kind of key":      strings.Replace(good, parts[0], base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"one"}`)), 1),
		"a key for encryption":     sign(t, jwt.SigningMethodRS256, other, "for encryption", i.goodClaims()),
		"no kid":                   sign(t, jwt.SigningMethodRS256, one, "", i.goodClaims()),
		"no signature":             parts[0] + "." + parts[1] + ".",
		"other claims":             parts[0] + "." + bobsParts[1] + "." + parts[2],
		"crit":                     criticalToken,
	})
}

func TestTokenWithWrongClaimsIsForbidden(t *testing.T) {
	i := newTestIssuer(t)
	i.keys = append(i.keys, publicJWK(t, rsaKey(t, "one").Public(), "one", jwkset.UseSig))
	a := readyAuthenticator(t, i)
	edit := func(change func(jwt.MapClaims)) string {
		claims := i.goodClaims()
		change(claims)
		return sign(t, jwt.SigningMethodRS256, rsaKey(t, "one"), "one", claims)
	}
	with := func(name string, value any) string {
		return edit(func(c jwt.MapClaims) { c[name] = value })
	}
	without := func(name string) string {
		return edit(func(c jwt.MapClaims) { delete(c, name) })
	}
	if _, err := a.Authenticate(t.Context(), Credentials{kind: Token, secret: edit(func(jwt.MapClaims) {})}, netip.Addr{}); err != nil {
		t.Fatalf("the token that all others are made from: %v", err)
	}
	refuses(t, a, i, map[string]string{
		"wrong iss":               with("iss", "https://elsewhere.example"),
		"iss with a slash more":   with("iss", i.server.URL+"/"),
		"no iss":                  without("iss"),
		"wrong aud":               with("aud", "another"),
		"no aud":                  without("aud"),
		"wrong azp":               with("azp", "another"),
		"no exp":                  without("exp"),
		"exp of no number":        with("exp", "soon"),
		"exp 0":                   with("exp", 0),
		"expired by 31 s":         with("exp", time.Now().Add(-31*time.Second).Unix()),
		"not valid for 35 s":      with("nbf", time.Now().Add(35*time.Second).Unix()),
		"no sub":                  without("sub"),
		"empty sub":               with("sub", ""),
		"Sub instead of sub":      edit(func(c jwt.MapClaims) { delete(c, "sub"); c["Sub"] = "alice" }),
		"sub like a role":         with("sub", "role:operators"),
		"sub of a further issuer": with("sub", "1/alice"),
		"longer than 16 KiB":      with("padding", strings.Repeat("x", TokenBytes)),
		"roles of no list":        with("realm_access", "operators"),
	})
}

func TestLeewayOfThirtySecondsCoversClocksThatDiffer(t *testing.T) {
	i := newTestIssuer(t)
	i.keys = append(i.keys, publicJWK(t, rsaKey(t, "one").Public(), "one", jwkset.UseSig))
	a := readyAuthenticator(t, i)
	claims := i.goodClaims()
	exp := time.Now().Add(-20 * time.Second).Truncate(time.Second)
	claims["exp"], claims["nbf"] = exp.Unix(), time.Now().Add(20*time.Second).Unix()
	p, err := a.Authenticate(t.Context(), Credentials{kind: Token, secret: sign(t, jwt.SigningMethodRS256, rsaKey(t, "one"), "one", claims)}, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	if want := exp.Add(leeway); !p.Expires.Equal(want) {
		t.Errorf("the session ends at %v, want the end of the leeway that let it in, %v", p.Expires, want)
	}
}

func TestAuthorizedPartyPicksTheClientWhoseAudienceCounts(t *testing.T) {
	i := newTestIssuer(t)
	i.keys = append(i.keys, publicJWK(t, rsaKey(t, "one").Public(), "one", jwkset.UseSig))
	cfg := i.config()
	cfg.Clients["1"] = config.OAuthClient{ClientID: "second", IssuerURL: i.server.URL}
	a := startAuthenticator(t, cfg)
	waitReady(t, a)
	for _, c := range []struct {
		aud, azp string
		ok       bool
	}{
		{"canopy", "", true},
		{"second", "", true},
		{"second", "second", true},
		{"canopy", "second", false},
		{"third", "", false},
	} {
		claims := i.goodClaims()
		claims["aud"] = c.aud
		if c.azp != "" {
			claims["azp"] = c.azp
		}
		_, err := a.Authenticate(t.Context(), Credentials{kind: Token, secret: sign(t, jwt.SigningMethodRS256, rsaKey(t, "one"), "one", claims)}, netip.Addr{})
		if (err == nil) != c.ok {
			t.Errorf("aud %q azp %q: %v", c.aud, c.azp, err)
		}
	}
}
