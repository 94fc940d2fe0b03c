//go:build linux

package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

const discoveryTimeout = 5 * time.Second

// verifier checks tokens with the same libraries as an edge, keyfunc and golang-jwt: signature,
// issuer, audience and lifetime. The edge's own lies inside it, out of reach from here, and
// does more: it keeps its keys itself, and asks what kind of token it is.
type verifier struct {
	keys   keyfunc.Keyfunc
	parser *jwt.Parser
}

// newVerifier fetches the issuer's keys (OpenID Connect Discovery 1.0, section 4).
func newVerifier(issuer, audience string) (*verifier, error) {
	client := &http.Client{Timeout: discoveryTimeout}
	response, err := client.Get(issuer + "/.well-known/openid-configuration")
	if err != nil {
		return nil, fmt.Errorf("discover issuer: %w", err)
	}
	defer func() { _ = response.Body.Close() }() // it was only read
	var discovery struct {
		Keys string `json:"jwks_uri"`
	}
	if err := json.NewDecoder(response.Body).Decode(&discovery); err != nil {
		return nil, fmt.Errorf("discover issuer: %w", err)
	}
	keys, err := keyfunc.NewDefault([]string{discovery.Keys})
	if err != nil {
		return nil, fmt.Errorf("fetch keys: %w", err)
	}
	return &verifier{keys, jwt.NewParser(
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired(),
		jwt.WithIssuer(issuer), jwt.WithAudience(audience),
	)}, nil
}

// verify is an error unless the request brings a good token.
func (v *verifier) verify(r *http.Request) error {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return fmt.Errorf("no token")
	}
	var claims jwt.RegisteredClaims
	if _, err := v.parser.ParseWithClaims(token, &claims, v.keys.Keyfunc); err != nil {
		return fmt.Errorf("verify token: %w", err)
	}
	return nil
}
