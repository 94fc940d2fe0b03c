package issuer

import (
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

const (
	keysPath  = "/jwks"
	tokenPath = "/token"

	maxForm = 64 << 10 // bytes
)

// Handler serves the issuer: GET /.well-known/openid-configuration, GET /jwks and
// POST /token.
func (i *Issuer) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", i.serveDiscovery)
	mux.HandleFunc("GET "+keysPath, i.serveKeys)
	mux.HandleFunc("POST "+tokenPath, i.serveToken)
	return mux
}

func (i *Issuer) serveDiscovery(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{
		"issuer":                                i.url,
		"jwks_uri":                              i.url + keysPath,
		"token_endpoint":                        i.url + tokenPath,
		"grant_types_supported":                 []string{"client_credentials"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "client_secret_basic"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"response_types_supported":              []string{"token"},
		"subject_types_supported":               []string{"public"},
	})
}

func (i *Issuer) serveKeys(w http.ResponseWriter, _ *http.Request) {
	i.mu.RLock()
	keys := []jwk{i.current.public()}
	for _, k := range i.former {
		keys = append(keys, k.public())
	}
	i.mu.RUnlock()
	answer(w, http.StatusOK, map[string]any{"keys": keys})
}

// serveToken is RFC 6749, section 4.4, with the parameter ttl beside it.
func (i *Issuer) serveToken(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		refuse(w, http.StatusBadRequest, "invalid_request", "the body is not a form")
		return
	}
	user, secret, basic := credentials(r)
	if !i.knows(user, secret) {
		if basic {
			w.Header().Set("WWW-Authenticate", `Basic realm="canopy"`)
		}
		refuse(w, http.StatusUnauthorized, "invalid_client", "unknown client or wrong secret")
		return
	}
	if r.PostForm.Get("grant_type") != "client_credentials" {
		refuse(w, http.StatusBadRequest, "unsupported_grant_type", "grant_type must be client_credentials")
		return
	}
	ttl, err := parseTTL(r.PostForm.Get("ttl"))
	if err != nil {
		refuse(w, http.StatusBadRequest, "invalid_request", err.Error())
		return
	}
	token, err := i.Token(user, ttl)
	if err != nil {
		refuse(w, http.StatusInternalServerError, "server_error", "the token could not be signed")
		return
	}
	answer(w, http.StatusOK, map[string]any{
		"access_token": token,
		"token_type":   "Bearer",
		"expires_in":   int64(ttl / time.Second),
	})
}

// credentials are the client's, from the Authorization header or else from the form.
func credentials(r *http.Request) (user, secret string, basic bool) {
	if user, secret, basic = r.BasicAuth(); basic {
		// RFC 6749, section 2.3.1: both are form-encoded inside the header.
		return unescape(user), unescape(secret), true
	}
	return r.PostForm.Get("client_id"), r.PostForm.Get("client_secret"), false
}

func unescape(s string) string {
	if plain, err := url.QueryUnescape(s); err == nil {
		return plain
	}
	return s
}

func (i *Issuer) knows(user, secret string) bool {
	want, ok := i.users[user]
	return subtle.ConstantTimeCompare([]byte(want), []byte(secret)) == 1 && ok
}

func refuse(w http.ResponseWriter, status int, code, description string) {
	answer(w, status, map[string]string{"error": code, "error_description": description})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A client that has gone does not want the answer.
	_ = json.NewEncoder(w).Encode(body)
}
