package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"canopy/shared/config"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// encode writes text as the parts of a token are written.
func encode(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// rsaJWK is the key set entry of an RSA key of any size and exponent, good or not.
func rsaJWK(id string, n, e *big.Int, more string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"kty":"RSA","use":"sig","kid":%q,"n":%q,"e":%q%s}`, id, encode(string(n.Bytes())), encode(string(e.Bytes())), more))
}

func TestKeysThatProveNothingAreNotTakenAndAreNamedInTheLogOnce(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	good, leaked := rsaKey(t, "one"), rsaKey(t, "other")
	f4 := big.NewInt(65537)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	log, lines := observer.New(zap.WarnLevel)
	i := newTestIssuer(t)
	i.keys = []json.RawMessage{
		rsaJWK("small", small.N, f4, ""),
		rsaJWK("huge", new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 16384), big.NewInt(1)), f4, ""),
		rsaJWK("exponent", good.N, new(big.Int).Lsh(big.NewInt(1), 4000), ""),
		rsaJWK("exponent 1", good.N, big.NewInt(1), ""),
		rsaJWK("leaked", leaked.N, f4, `,"d":"`+encode(string(leaked.D.Bytes()))+`"`),
		json.RawMessage(`{"kty":"OKP","crv":"Ed25519","kid":"leaked too","x":"` + encode(string(ed.Public().(ed25519.PublicKey))) + `","d":"` + encode(string(ed.Seed())) + `"}`),
		json.RawMessage(`{"kty":"oct","kid":"oct","alg":"HS256","k":"c2VjcmV0"}`),
		publicJWK(t, good.Public(), "one", jwkset.UseSig),
	}
	a, err := newAuthenticator(i.config(), oneKey{}, zap.New(log), prometheus.NewRegistry(), nil)
	if err != nil {
		t.Fatal(err)
	}
	issuer := i.of(t, a)
	for range 3 {
		if !issuer.keys.refresh(t.Context()) {
			t.Fatal("the set was not taken")
		}
	}
	if all := lines.All(); len(all) != 1 || all[0].ContextMap()["ignored"] !=
		"1: RSA with less than 2048 bits; 1: RSA with more than 8192 bits; 2: its private part is public, too" {
		t.Errorf("the log says %v", all)
	}
	for id, c := range map[string]struct {
		method jwt.SigningMethod
		key    any
	}{
		"small":      {jwt.SigningMethodRS256, small},
		"leaked":     {jwt.SigningMethodRS256, leaked},
		"leaked too": {jwt.SigningMethodEdDSA, ed},
		"oct":        {jwt.SigningMethodHS256, []byte("secret")},
		"huge":       {jwt.SigningMethodRS256, good},
		"exponent":   {jwt.SigningMethodRS256, good},
		"exponent 1": {jwt.SigningMethodRS256, good},
	} {
		issuer.keys.asked = time.Now() // no id is worth a fetch now
		_, err := a.Authenticate(t.Context(), Credentials{kind: Token, secret: sign(t, c.method, c.key, id, i.goodClaims())}, netip.Addr{})
		if !errors.Is(err, ErrForbidden) {
			t.Errorf("key %q: got %v, want ErrForbidden", id, err)
		}
	}
	if _, err := a.Authenticate(t.Context(), i.tokenOf(t, "one"), netip.Addr{}); err != nil {
		t.Errorf("the good key beside them: %v", err)
	}
}

func TestATokenIsTriedWithFewKeysHoweverManyHaveItsId(t *testing.T) {
	i := newTestIssuer(t)
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for range 10_000 {
		i.keys = append(i.keys, json.RawMessage(`{"kty":"OKP","crv":"Ed25519","kid":"one","x":"`+encode(string(public))+`"}`))
	}
	i.keys = append(i.keys, publicJWK(t, rsaKey(t, "one").Public(), "one", jwkset.UseSig))
	a, err := New(i.config(), oneKey{}, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	issuer := i.of(t, a)
	if !issuer.keys.refresh(t.Context()) {
		t.Fatal("the set was not taken")
	}
	for method, want := range map[jwt.SigningMethod]int{jwt.SigningMethodEdDSA: twins, jwt.SigningMethodRS256: 1} {
		set, err := issuer.candidates(t.Context(), &jwt.Token{Method: method, Header: map[string]any{"alg": method.Alg(), "kid": "one"}})
		if err != nil || len(set.Keys) != want {
			t.Errorf("%s: %d keys, %v; want %d", method.Alg(), len(set.Keys), err, want)
		}
	}
	if _, err := a.Authenticate(t.Context(), i.tokenOf(t, "one"), netip.Addr{}); err != nil {
		t.Errorf("the key behind 10,000 others: %v", err)
	}
}

func TestKeyOfAnotherCurveVouchesForNothing(t *testing.T) {
	i := newTestIssuer(t)
	large, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i.keys = append(i.keys, publicJWK(t, large.Public(), "large", jwkset.UseSig))
	a := readyAuthenticator(t, i)
	text := encode(`{"alg":"ES256","kid":"large"}`) + "." + encode(`{"iss":"`+i.server.URL+`","aud":"canopy","sub":"alice","exp":4102444800}`)
	refuses(t, a, i, map[string]string{
		"ES256 with P-384":     text + "." + encode(strings.Repeat("x", 64)),
		"ES256 with a long r":  text + "." + encode(strings.Repeat("x", 96)),
		"ES256 of zeros":       text + "." + encode(strings.Repeat("\x00", 64)),
		"ES384 of another key": sign(t, jwt.SigningMethodES384, mustKey(t), "large", i.goodClaims()),
	})
}

func mustKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestKeyfuncAloneLooksForNoKey asks keyfunc for what no token may cause: a token without a
// key id is tried with every key that a storage has, and a storage may be asked by others.
func TestKeyfuncAloneLooksForNoKey(t *testing.T) {
	i := newTestIssuer(t)
	i.publish(t, "one")
	a := readyAuthenticator(t, i)
	issuer := i.of(t, a)
	if set, err := issuer.keyfunc.VerificationKeySet(t.Context()); err != nil || len(set.Keys) != 0 {
		t.Errorf("without an id %d keys would vouch, %v", len(set.Keys), err)
	}
	for name, token := range map[string]*jwt.Token{
		"no id":        {Method: jwt.SigningMethodRS256, Header: map[string]any{"alg": "RS256"}},
		"an empty id":  {Method: jwt.SigningMethodRS256, Header: map[string]any{"alg": "RS256", "kid": ""}},
		"id of a list": {Method: jwt.SigningMethodRS256, Header: map[string]any{"alg": "RS256", "kid": []string{"one"}}},
	} {
		key, err := issuer.keyfunc.KeyfuncCtx(&candidates{Context: t.Context(), algorithm: "RS256"})(token)
		if set, ok := key.(jwt.VerificationKeySet); err == nil && (!ok || len(set.Keys) > 0) {
			t.Errorf("%s: got %v", name, key)
		}
	}
	if n := i.fetched(); n != 1 {
		t.Errorf("%d fetches of keys, want the first one alone", n)
	}
}

func TestTenThousandMadeUpKeyIdsHoldNoMemoryAndAreNotFetchedFor(t *testing.T) {
	i := newTestIssuer(t)
	i.publish(t, "one")
	a := readyAuthenticator(t, i)
	good := i.tokenOf(t, "one")
	rest := good.secret[strings.Index(good.secret, "."):]
	start := time.Now()
	for n := range 10_000 {
		token := encode(`{"alg":"RS256","kid":"../../`+strconv.Itoa(n)+`' OR 1=1 --"}`) + rest
		if _, err := a.Authenticate(t.Context(), Credentials{kind: Token, secret: token}, netip.Addr{}); !errors.Is(err, ErrForbidden) {
			t.Fatalf("id %d: got %v, want ErrForbidden", n, err)
		}
	}
	if n, most := i.fetched(), 3+int(time.Since(start)/unknownInterval); n > most {
		t.Errorf("%d fetches of keys, want %d at most", n, most)
	}
	if keys := i.of(t, a).keys; len(keys.byID) != 1 {
		t.Errorf("%d ids are held, want the issuer's", len(keys.byID))
	}
	if _, err := a.Authenticate(t.Context(), good, netip.Addr{}); err != nil {
		t.Errorf("a good token behind them: %v", err)
	}
}

// TestAChangeOfKeysLeavesNoMomentWithoutThem reads while the set is replaced again and again.
func TestAChangeOfKeysLeavesNoMomentWithoutThem(t *testing.T) {
	i := newTestIssuer(t)
	i.publish(t, "one")
	a, err := New(i.config(), oneKey{}, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	keys := i.of(t, a).keys
	keys.refresh(t.Context())
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			keys.refresh(ctx)
		}
	}()
	good := i.tokenOf(t, "one")
	for range 300 {
		if _, err := a.Authenticate(t.Context(), good, netip.Addr{}); err != nil {
			t.Error(err)
			break
		}
	}
	stop()
	<-ended
	if n := i.fetched(); n < 2 {
		t.Errorf("%d fetches: nothing was replaced", n)
	}
}

func TestUserNamesThatLookLikeOthersAreNoUsersOfKeys(t *testing.T) {
	a, err := New(config.OAuth{}, anyKey{}, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"role:ops", "role:", "1/alice", "/", "alice\n", "\x00", "a\u009bb", "\xff", strings.Repeat("a", userBytes+1)} {
		if _, err := a.Authenticate(t.Context(), NewKey(user, "secret"), netip.Addr{}); !errors.Is(err, ErrForbidden) {
			t.Errorf("%.20q: got %v, want ErrForbidden", user, err)
		}
	}
	for _, user := range []string{"alice", "Alice Doe", "jürgen@example.com", "roles:x", strings.Repeat("a", userBytes)} {
		if _, err := a.Authenticate(t.Context(), NewKey(user, "secret"), netip.Addr{}); err != nil {
			t.Errorf("%.20q: %v", user, err)
		}
	}
}

// anyKey takes every key of everybody.
type anyKey struct{}

func (anyKey) VerifyKey(_ context.Context, user, _ string, _ func() bool) (Principal, error) {
	return Principal{Kind: Key, User: user}, nil
}
