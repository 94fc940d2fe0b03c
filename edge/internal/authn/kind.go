package authn

import (
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// An issuer signs more than access and ID tokens with the same keys, for the same clients:
// refresh tokens, logout tokens, proofs, answers to introspection. None of those signs in.

// headerTypes are the values of the header typ that access and ID tokens have, in lower case
// and without "application/" (RFC 7515, section 4.1.9; RFC 9068, section 2.1). Many issuers
// leave it out. All other kinds that have one of their own (RFC 8725, section 3.11) have it
// so that they are not taken for these.
var headerTypes = []string{"jwt", "at+jwt"}

// claimTypes are the values of the claim typ that Keycloak, and others like it, give access
// and ID tokens, in lower case; the others repeat the header (RFC 7519, section 5.3).
var claimTypes = append([]string{"bearer", "id"}, headerTypes...)

// kind holds the claims that tell what a token is for.
type kind struct {
	Type  string `json:"typ"`        // Keycloak, Rauthy
	Use   string `json:"token_use"`  // Cognito
	Name  string `json:"tokenName"`  // PingAM
	Short string `json:"tokenType"`  // Casdoor
	Long  string `json:"token_type"` // what many write by themselves

	// Confirmation names a key that the bearer must prove to have (RFC 7800), which nobody
	// can do here.
	Confirmation jsontext.Value `json:"cnf"`
	// Events are what a security event token tells of (RFC 8417), a logout token for one.
	Events jsontext.Value `json:"events"`
}

// refuse says why a token is none of those that sign in, and returns nil for one that is.
func (k *kind) refuse(header map[string]any) error {
	if typ, ok := header["typ"]; ok {
		text, _ := typ.(string)
		text = strings.TrimPrefix(strings.ToLower(text), "application/")
		if !slices.Contains(headerTypes, text) {
			return refusal("token's header typ is not that of an access or ID token")
		}
	}
	switch {
	case k.Type != "" && !slices.Contains(claimTypes, strings.ToLower(k.Type)):
		return refusal("token's typ is not that of an access or ID token")
	case slices.ContainsFunc([]string{k.Use, k.Name, k.Short, k.Long}, forRefresh):
		return refusal("refresh token")
	case k.event():
		return refusal("logout token, or one of another event")
	case present(k.Confirmation):
		return refusal("token is bound to a key, of which nobody asks for a proof here")
	}
	return nil
}

// forRefresh reports whether the name of a kind is that of refresh tokens.
func forRefresh(name string) bool {
	return strings.HasPrefix(strings.ToLower(name), "refresh")
}

// event reports whether the token is one of an event: its events are named by URIs, which
// another issuer's claim of this name is not likely to have.
func (k *kind) event() bool {
	if k.Events.Kind() != '{' {
		return false
	}
	var events map[string]jsontext.Value
	if json.Unmarshal(k.Events, &events) != nil {
		return true
	}
	for name := range events {
		if strings.Contains(name, ":") {
			return true
		}
	}
	return false
}

// present reports whether a claim says anything.
func present(v jsontext.Value) bool { return len(v) > 0 && v.Kind() != 'n' }
