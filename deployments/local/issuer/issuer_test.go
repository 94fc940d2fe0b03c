package issuer

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

// start serves an issuer that names itself by the address it is served at.
func start(t *testing.T) *Issuer {
	t.Helper()
	var i *Issuer
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	i, err := New(Config{
		URL:      server.URL,
		Audience: "canopy",
		Users:    map[string]string{"alice": "alice", "bob": "b=b&b"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

type tokenAnswer struct {
	Token     string `json:"access_token"`
	Type      string `json:"token_type"`
	ExpiresIn int64  `json:"expires_in"`
	Error     string `json:"error"`
}

func ask(t *testing.T, i *Issuer, form url.Values, header http.Header) (int, tokenAnswer) {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, i.url+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var answer tokenAnswer
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, answer
}

// verify checks a token as the edge does: by the keys that discovery names.
func verify(t *testing.T, i *Issuer, token string) (*jwt.Token, error) {
	t.Helper()
	response, err := http.Get(i.url + "/.well-known/openid-configuration")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var discovery struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.NewDecoder(response.Body).Decode(&discovery); err != nil {
		t.Fatal(err)
	}
	keys, err := keyfunc.NewDefaultCtx(t.Context(), []string{discovery.Keys})
	if err != nil {
		t.Fatal(err)
	}
	return jwt.Parse(token, keys.Keyfunc,
		jwt.WithIssuer(discovery.Issuer), jwt.WithAudience("canopy"),
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired())
}

func form(pairs ...string) url.Values {
	v := url.Values{"grant_type": {"client_credentials"}}
	for i := 0; i < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return v
}

func TestTokenIsVerifiedByThePublishedKeys(t *testing.T) {
	i := start(t)
	status, answer := ask(t, i, form("client_id", "alice", "client_secret", "alice", "ttl", "60s"), nil)
	if status != http.StatusOK || answer.Type != "Bearer" || answer.ExpiresIn != 60 {
		t.Fatalf("got status %d, answer %+v", status, answer)
	}
	token, err := verify(t, i, answer.Token)
	if err != nil {
		t.Fatal(err)
	}
	claims := token.Claims.(jwt.MapClaims)
	if sub := claims["sub"]; sub != "alice" {
		t.Errorf("sub = %v, want alice", sub)
	}
	if azp := claims["azp"]; azp != "canopy" {
		t.Errorf("azp = %v, want canopy", azp)
	}
	if life := claims["exp"].(float64) - claims["iat"].(float64); life != 60 {
		t.Errorf("token lives %v s, want 60", life)
	}
	if kid, _ := token.Header["kid"].(string); kid == "" {
		t.Error("token has no kid")
	}
}

func TestTokenLivesAsLongAsAsked(t *testing.T) {
	i := start(t)
	for ttl, want := range map[string]int64{"": 300, "2s": 2, "1h30m": 5400, "-1m": -60} {
		_, answer := ask(t, i, form("client_id", "alice", "client_secret", "alice", "ttl", ttl), nil)
		if answer.ExpiresIn != want {
			t.Errorf("ttl %q: expires_in = %d, want %d", ttl, answer.ExpiresIn, want)
		}
	}
	expired, err := i.Token("alice", -time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verify(t, i, expired); err == nil {
		t.Error("a token with a negative ttl was accepted")
	}
}

func TestTokenRequestsThatAreRefused(t *testing.T) {
	i := start(t)
	for name, c := range map[string]struct {
		form   url.Values
		status int
		code   string
	}{
		"wrong secret":   {form("client_id", "alice", "client_secret", "bob"), 401, "invalid_client"},
		"unknown client": {form("client_id", "carol", "client_secret", "carol"), 401, "invalid_client"},
		"no credentials": {form(), 401, "invalid_client"},
		"other grant":    {form("client_id", "alice", "client_secret", "alice", "grant_type", "password"), 400, "unsupported_grant_type"},
		"ttl no time":    {form("client_id", "alice", "client_secret", "alice", "ttl", "soon"), 400, "invalid_request"},
		"ttl too long":   {form("client_id", "alice", "client_secret", "alice", "ttl", "25h"), 400, "invalid_request"},
		"body too large": {form("client_id", strings.Repeat("a", maxForm)), 400, "invalid_request"},
	} {
		if status, answer := ask(t, i, c.form, nil); status != c.status || answer.Error != c.code || answer.Token != "" {
			t.Errorf("%s: got %d %+v, want %d %s", name, status, answer, c.status, c.code)
		}
	}
}

func TestClientMaySignInByHeader(t *testing.T) {
	i := start(t)
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth("bob", url.QueryEscape("b=b&b"))
	if status, answer := ask(t, i, form(), r.Header); status != http.StatusOK || answer.Token == "" {
		t.Errorf("got status %d, answer %+v", status, answer)
	}
}

func TestRotationKeepsOlderTokensUntilTheirKeyIsForgotten(t *testing.T) {
	i := start(t)
	before, err := i.Token("alice", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Rotate(); err != nil {
		t.Fatal(err)
	}
	after, err := i.Token("alice", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	old, err := verify(t, i, before)
	if err != nil {
		t.Fatalf("token from before the rotation: %v", err)
	}
	young, err := verify(t, i, after)
	if err != nil {
		t.Fatalf("token from after the rotation: %v", err)
	}
	if old.Header["kid"] == young.Header["kid"] {
		t.Error("the key did not change")
	}
	i.Forget()
	if _, err := verify(t, i, before); err == nil {
		t.Error("a token of a forgotten key was accepted")
	}
	if _, err := verify(t, i, after); err != nil {
		t.Errorf("token of the current key: %v", err)
	}
}

func TestKeyFileGivesTheSameKeyAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "issuer.pem")
	made, err := KeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	read, err := KeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !made.Equal(read) || newSigningKey(made).id != newSigningKey(read).id {
		t.Error("the key changed on its way through the file")
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, want 0600", info.Mode().Perm())
	}
	if err := os.WriteFile(path, []byte("not a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := KeyFile(path); err == nil {
		t.Error("a file without a key was accepted")
	}
}
