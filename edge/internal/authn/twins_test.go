package authn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// meantFor writes an algorithm into a key of a set.
func meantFor(t *testing.T, raw json.RawMessage, algorithm string) json.RawMessage {
	t.Helper()
	var members map[string]any
	if err := json.Unmarshal(raw, &members); err != nil {
		t.Fatal(err)
	}
	members["alg"] = algorithm
	raw, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestOfKeysWithOneIdThoseThatFitTheTokenVouchForIt(t *testing.T) {
	i := newTestIssuer(t)
	curve := func(c elliptic.Curve) *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	encrypts, old, fresh, pss := rsaKey(t, "encrypts"), rsaKey(t, "old"), rsaKey(t, "fresh"), rsaKey(t, "pss")
	small, large, unlisted := curve(elliptic.P256()), curve(elliptic.P384()), curve(elliptic.P256())
	i.keys = append(i.keys,
		meantFor(t, publicJWK(t, encrypts.Public(), "same", jwkset.UseEnc), "RSA-OAEP"),
		publicJWK(t, unlisted.Public(), "same", jwkset.UseEnc), // no algorithm tells that it is not for signatures
		meantFor(t, publicJWK(t, pss.Public(), "same", jwkset.UseSig), "PS256"),
		publicJWK(t, large.Public(), "same", ""),
		publicJWK(t, old.Public(), "same", jwkset.UseSig),
		publicJWK(t, small.Public(), "same", jwkset.UseSig),
		publicJWK(t, fresh.Public(), "same", jwkset.UseSig),
	)
	a := readyAuthenticator(t, i)
	for name, c := range map[string]struct {
		method jwt.SigningMethod
		key    any
	}{
		"the first of two":       {jwt.SigningMethodRS256, old},
		"the second of two":      {jwt.SigningMethodRS256, fresh},
		"another algorithm":      {jwt.SigningMethodPS256, fresh},
		"one for that algorithm": {jwt.SigningMethodPS256, pss},
		"another type":           {jwt.SigningMethodES256, small},
		"another curve":          {jwt.SigningMethodES384, large},
	} {
		token := sign(t, c.method, c.key, "same", i.goodClaims())
		if _, err := a.Authenticate(t.Context(), Credentials{kind: Token, secret: token}, netip.Addr{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	refuses(t, a, i, map[string]string{
		"a key for encryption, by its algorithm and use": sign(t, jwt.SigningMethodRS256, encrypts, "same", i.goodClaims()),
		"a key for encryption, by its use":               sign(t, jwt.SigningMethodES256, unlisted, "same", i.goodClaims()),
		"a key for another algorithm":                    sign(t, jwt.SigningMethodRS256, pss, "same", i.goodClaims()),
		"a key that is not listed":                       sign(t, jwt.SigningMethodRS256, rsaKey(t, "other"), "same", i.goodClaims()),
	})
}

func TestASetWithoutAKeyForSignaturesIsNotTaken(t *testing.T) {
	i := newTestIssuer(t)
	i.keys = append(i.keys, publicJWK(t, rsaKey(t, "encrypts").Public(), "one", jwkset.UseEnc))
	if _, err := i.of(t, startAuthenticator(t, i.config())).fetch(t.Context()); err == nil {
		t.Error("keys for encryption alone were taken for the issuer's")
	}
}
