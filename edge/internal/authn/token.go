package authn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/go-json-experiment/json"
	"github.com/golang-jwt/jwt/v5"
)

const (
	// tokenBytes is the length of the longest token that is looked at.
	tokenBytes = 16 << 10
	// leeway is how far the clocks of issuer and edge may be apart when exp and nbf are
	// checked at sign-in. An open socket ends at exp itself.
	leeway = 30 * time.Second
)

// algorithms is what a token may be signed with. None of them is symmetric: with one that
// is, whoever knows the issuer's public key could sign.
var algorithms = []string{
	"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
}

// verifier checks tokens of one issuer. Any goroutine may use it.
type verifier struct {
	issuer  string
	clients []string // client ids, one of which the token must be meant for
	keys    keyfunc.Keyfunc
	parser  *jwt.Parser
}

func newVerifier(issuer string, clients []string, keys jwkset.Storage) (*verifier, error) {
	// Keys without a use are signing keys to most issuers; those for encryption are not ours.
	k, err := keyfunc.New(keyfunc.Options{Storage: keys, UseWhitelist: []jwkset.USE{jwkset.UseSig, ""}})
	if err != nil {
		return nil, fmt.Errorf("make key lookup: %w", err)
	}
	return &verifier{
		issuer:  issuer,
		clients: clients,
		keys:    k,
		parser: jwt.NewParser(
			jwt.WithValidMethods(algorithms),
			jwt.WithIssuer(issuer),
			jwt.WithExpirationRequired(),
			jwt.WithLeeway(leeway),
			jwt.WithStrictDecoding(),
		),
	}, nil
}

// claims are those of a token's claims that count here. The roles stand where Keycloak
// puts them.
type claims struct {
	jwt.RegisteredClaims
	Party     string            `json:"azp"`
	Realm     access            `json:"realm_access"`
	Resources map[string]access `json:"resource_access"`
}

// access is a list of roles.
type access struct {
	Roles []string `json:"roles"`
}

// UnmarshalJSON decodes claims by their exact names, each at most once. encoding/json
// would take "Sub" for "sub", and the last of two.
func (c *claims) UnmarshalJSON(b []byte) error {
	type plain claims
	return json.Unmarshal(b, (*plain)(c))
}

// verify returns the user of a token. It waits only for a refresh of the issuer's keys,
// at most unknownWait. The error wraps ErrForbidden or ErrUnavailable and holds nothing
// of the token.
func (v *verifier) verify(ctx context.Context, token string) (Principal, error) {
	if len(token) > tokenBytes {
		return Principal{}, fmt.Errorf("%w: token longer than %d bytes", ErrForbidden, tokenBytes)
	}
	var c claims
	_, err := v.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) { return v.key(ctx, t, &c) })
	switch {
	case errors.Is(err, ErrUnavailable):
		return Principal{}, fmt.Errorf("%w: no key of the issuer for this token", ErrUnavailable)
	case err != nil:
		return Principal{}, fmt.Errorf("%w: %s", ErrForbidden, reason(err))
	case !v.meantForUs(&c):
		return Principal{}, fmt.Errorf("%w: token is meant for another client", ErrForbidden)
	case !ValidUser(c.Subject):
		return Principal{}, fmt.Errorf("%w: token's sub is missing or no user name", ErrForbidden)
	}
	return Principal{Kind: Token, User: c.Subject, Roles: c.roles(), Expires: c.ExpiresAt.Time}, nil
}

// key finds the key for a token whose signature was not checked yet.
func (v *verifier) key(ctx context.Context, t *jwt.Token, c *claims) (any, error) {
	// Tokens of other issuers must not cause a search for their keys.
	if c.Issuer != v.issuer {
		return nil, jwt.ErrTokenInvalidIssuer
	}
	// RFC 7515, section 4.1.11: a header that must be understood and is not voids the token.
	if _, ok := t.Header["crit"]; ok {
		return nil, jwt.ErrTokenUnverifiable
	}
	// keyfunc would try every key on a token that names none.
	if kid, ok := t.Header["kid"].(string); !ok || kid == "" {
		return nil, errUnknownKey
	}
	return v.keys.KeyfuncCtx(ctx)(t)
}

// meantForUs reports whether the token's audience holds the client id, and if the token
// names the party that it was issued to, that party's.
func (v *verifier) meantForUs(c *claims) bool {
	return slices.ContainsFunc(v.clients, func(id string) bool {
		return (c.Party == "" || c.Party == id) && slices.Contains(c.Audience, id)
	})
}

// roles returns the roles that count: those of the realm, and those of Drogue's two clients.
func (c *claims) roles() []string {
	roles := slices.Concat(c.Realm.Roles, c.Resources["services"].Roles, c.Resources["drogue"].Roles)
	slices.Sort(roles)
	return slices.Compact(roles)
}

// reason says in fixed words why a token was refused.
func reason(err error) string {
	for _, r := range []struct {
		is   error
		text string
	}{
		{errUnknownKey, "token without a known key id"},
		{jwt.ErrTokenMalformed, "malformed token"},
		{jwt.ErrTokenInvalidIssuer, "token of another issuer"},
		{jwt.ErrTokenSignatureInvalid, "token's signature or algorithm is not valid"},
		{jwt.ErrTokenExpired, "expired token"},
		{jwt.ErrTokenNotValidYet, "token is not valid yet"},
		{jwt.ErrTokenRequiredClaimMissing, "token without exp"},
	} {
		if errors.Is(err, r.is) {
			return r.text
		}
	}
	return "token cannot be verified"
}
