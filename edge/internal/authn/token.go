package authn

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/golang-jwt/jwt/v5"
)

// TokenBytes is the length of the longest token that is looked at.
const TokenBytes = 16 << 10

// leeway is how far the clocks of issuer and edge may be apart when exp and nbf are
// checked at sign-in. An open socket ends at exp itself, as its user was told, unless it
// was the leeway that let him in: then it ends with the leeway, for one that is closed as
// soon as it is open serves nobody.
const leeway = 30 * time.Second

// algorithms is what a token may be signed with. None of them is symmetric: with one that
// is, whoever knows the issuer's public key could sign.
var algorithms = []string{
	"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
}

// verifier checks tokens. Any goroutine may use it.
type verifier struct {
	issuers map[string]*issuer // by iss
	parser  *jwt.Parser
	now     func() time.Time
}

func newVerifier(issuers map[string]*issuer) *verifier {
	return &verifier{
		issuers: issuers,
		now:     time.Now,
		parser: jwt.NewParser(
			jwt.WithValidMethods(algorithms),
			jwt.WithExpirationRequired(),
			jwt.WithLeeway(leeway),
			jwt.WithStrictDecoding(),
		),
	}
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

// verify returns the user of a token. It waits only for a refresh of its issuer's keys,
// at most unknownWait. The error wraps ErrForbidden or ErrUnavailable and holds nothing
// of the token.
func (v *verifier) verify(ctx context.Context, token string) (Principal, error) {
	if len(token) > TokenBytes {
		return Principal{}, fmt.Errorf("%w: token longer than %d bytes", ErrForbidden, TokenBytes)
	}
	var c claims
	var from *issuer
	_, err := v.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (key any, err error) {
		from, key, err = v.key(ctx, t, &c)
		return key, err
	})
	switch {
	case errors.Is(err, ErrUnavailable):
		return Principal{}, fmt.Errorf("%w: no keys of this token's issuer yet", ErrUnavailable)
	case err != nil:
		return Principal{}, fmt.Errorf("%w: %s", ErrForbidden, reason(err))
	case !from.meant(&c):
		return Principal{}, fmt.Errorf("%w: token is meant for another client", ErrForbidden)
	case !ValidUser(c.Subject):
		return Principal{}, fmt.Errorf("%w: token's sub is missing or no user name", ErrForbidden)
	}
	return Principal{
		Kind: Token, User: from.name(c.Subject), Roles: from.roles(&c),
		Expires: v.end(c.ExpiresAt.Time),
	}, nil
}

// end is when a session ends whose token has that exp and counts now.
func (v *verifier) end(exp time.Time) time.Time {
	if v.now().Before(exp) {
		return exp
	}
	return exp.Add(leeway)
}

// key finds the issuer and the key of a token whose signature was not checked yet.
func (v *verifier) key(ctx context.Context, t *jwt.Token, c *claims) (*issuer, any, error) {
	// The issuer is taken from the token before anything vouches for it. That is safe, as
	// it only picks whose keys must vouch, and tokens of others cause no search for keys.
	from := v.issuers[c.Issuer]
	if from == nil {
		return nil, nil, jwt.ErrTokenInvalidIssuer
	}
	// RFC 7515, section 4.1.11: a header that must be understood and is not voids the token.
	if _, ok := t.Header["crit"]; ok {
		return nil, nil, jwt.ErrTokenUnverifiable
	}
	id, ok := t.Header["kid"].(string)
	if !ok || id == "" {
		return nil, nil, errUnknownKey
	}
	keys, err := from.keys.read(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	var set jwt.VerificationKeySet // one of which must vouch
	for _, key := range keys {
		if fits(key, t.Method.Alg()) {
			set.Keys = append(set.Keys, key.Key())
		}
	}
	if len(set.Keys) == 0 {
		return nil, nil, errUnknownKey
	}
	return from, set, nil
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
