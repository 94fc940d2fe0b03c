package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/netip"
	"strings"
	"testing"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// BenchmarkVerify is what a token costs: one that counts, and those that somebody makes who
// would like it to be much.
func BenchmarkVerify(b *testing.B) {
	curve := func(c elliptic.Curve) crypto.Signer {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			b.Fatal(err)
		}
		return key
	}
	keys := map[string]crypto.Signer{"RS256": rsaKey(b, "one"), "ES256": curve(elliptic.P256()), "ES384": curve(elliptic.P384()), "ES512": curve(elliptic.P521())}
	i := newTestIssuer(b)
	for alg, key := range keys {
		i.keys = append(i.keys, publicJWK(b, key.Public(), alg, jwkset.UseSig))
	}
	a := readyAuthenticator(b, i)
	good := func(alg string) string { return sign(b, jwt.GetSigningMethod(alg), keys[alg], alg, i.goodClaims()) }
	// forged is a token with the signature of another one.
	forged := func(alg, id string, change func(jwt.MapClaims)) string {
		claims := i.goodClaims()
		change(claims)
		token := sign(b, jwt.GetSigningMethod(alg), keys[alg], id, claims)
		other := good(alg)
		return token[:strings.LastIndex(token, ".")] + other[strings.LastIndex(other, "."):]
	}
	as := func(user string) func(jwt.MapClaims) { return func(c jwt.MapClaims) { c["sub"] = user } }
	for _, c := range []struct{ name, token string }{
		{"good/RS256", good("RS256")},
		{"good/ES256", good("ES256")},
		{"no token", "nonsense"},
		{"unknown key", forged("RS256", "made up", as("bob"))},
		{"forged/RS256", forged("RS256", "RS256", as("bob"))},
		{"forged/ES256", forged("ES256", "ES256", as("bob"))},
		{"forged/ES384", forged("ES384", "ES384", as("bob"))},
		{"forged/ES512", forged("ES512", "ES512", as("bob"))},
		{"forged/RS256 of 16 KiB", forged("RS256", "RS256", func(c jwt.MapClaims) { c["x"] = strings.Repeat("x", 11<<10) })},
		{"forged and expired", forged("RS256", "RS256", func(c jwt.MapClaims) { c["exp"] = 1 })},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = a.Authenticate(b.Context(), Credentials{kind: Token, secret: c.token}, netip.MustParseAddr("192.0.2.1"))
			}
		})
	}
}
