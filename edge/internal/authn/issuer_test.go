package authn

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"canopy/shared/config"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// testIssuer is an OpenID issuer over HTTP whose keys and faults the test sets.
type testIssuer struct {
	server *httptest.Server

	mu        sync.Mutex
	keys      []json.RawMessage
	down      bool              // answer 503
	fetches   int               // of the key set
	discovery map[string]string // instead of the right one
}

func newTestIssuer(t testing.TB) *testIssuer {
	t.Helper()
	i := &testIssuer{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		if i.down {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		document := i.discovery
		if document == nil {
			document = map[string]string{"issuer": i.server.URL, "jwks_uri": i.server.URL + "/keys"}
		}
		_ = json.NewEncoder(w).Encode(document)
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.fetches++
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": i.keys})
	})
	i.server = httptest.NewServer(mux)
	t.Cleanup(i.server.Close)
	return i
}

// set changes the issuer under its lock.
func (i *testIssuer) set(change func(*testIssuer)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change(i)
}

func (i *testIssuer) fetched() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

// of is how a knows this issuer.
func (i *testIssuer) of(t testing.TB, a *Authenticator) *issuer {
	t.Helper()
	known := a.issuers[i.server.URL]
	if known == nil {
		t.Fatalf("nothing knows the issuer %s", i.server.URL)
	}
	return known
}

// config is that of an edge whose client id is canopy.
func (i *testIssuer) config() config.OAuth {
	return config.OAuth{
		IssuerURL: i.server.URL,
		Clients:   map[string]config.OAuthClient{"0": {ClientID: "canopy"}},
	}
}

// publicJWK is the key set entry of a public key.
func publicJWK(t testing.TB, key any, id string, use jwkset.USE) json.RawMessage {
	t.Helper()
	jwk, err := jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: id, USE: use}})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(jwk.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// rsaKey makes each named key once, because making one takes long.
var rsaKey = func() func(testing.TB, string) *rsa.PrivateKey {
	var mu sync.Mutex
	made := make(map[string]*rsa.PrivateKey)
	return func(t testing.TB, name string) *rsa.PrivateKey {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if made[name] == nil {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				t.Fatal(err)
			}
			made[name] = key
		}
		return made[name]
	}
}()

// goodClaims are those of a token that counts.
func (i *testIssuer) goodClaims() jwt.MapClaims {
	return jwt.MapClaims{
		"iss": i.server.URL,
		"aud": "canopy",
		"sub": "alice",
		"exp": time.Now().Add(time.Hour).Unix(),
	}
}

// sign makes a token. An empty id leaves kid out.
func sign(t testing.TB, method jwt.SigningMethod, key any, id string, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	if id != "" {
		token.Header["kid"] = id
	}
	signed, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}
