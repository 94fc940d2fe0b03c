package authn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
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
	forged  *forgeries
	now     func() time.Time
}

func newVerifier(issuers map[string]*issuer) *verifier {
	return &verifier{
		issuers: issuers,
		forged:  newForgeries(time.Now),
		now:     time.Now,
		parser: jwt.NewParser(
			jwt.WithValidMethods(algorithms),
			jwt.WithStrictDecoding(),
			jwt.WithoutClaimsValidation(), // examine has done it by then
		),
	}
}

// claims are those of a token's claims that count here (RFC 7519, section 4.1). The roles
// stand where Keycloak puts them.
type claims struct {
	jwt.RegisteredClaims `json:"-"` // what the parser would validate by itself; empty

	Issuer    string           `json:"iss"`
	Subject   string           `json:"sub"`
	Audience  jwt.ClaimStrings `json:"aud"`
	Expires   *date            `json:"exp"`
	NotBefore *date            `json:"nbf"`
	kind
	Party     string            `json:"azp"`
	Realm     access            `json:"realm_access"`
	Resources map[string]access `json:"resource_access"`
}

// date is a NumericDate (RFC 7519, section 2), cut to whole seconds.
type date struct{ time.Time }

// UnmarshalJSON decodes a number of seconds since 1970, which some issuers write as a text.
// A number that no time holds is an error: it would become another time.
func (d *date) UnmarshalJSON(b []byte) error {
	seconds, err := strconv.ParseFloat(strings.Trim(string(b), `"`), 64)
	if err != nil || !(seconds >= 0 && seconds <= 1<<53) {
		return errors.New("no date")
	}
	d.Time = time.Unix(int64(seconds), 0)
	return nil
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

// verify returns the user of a token that comes from an address, none if it comes over an
// open socket. It waits only for a refresh of its issuer's keys, at most unknownWait, and for
// its turn behind forgeries. The error wraps ErrForbidden or ErrUnavailable, or is a *TooMany,
// and holds nothing of the token.
func (v *verifier) verify(ctx context.Context, token string, at netip.Addr) (Principal, error) {
	if len(token) > TokenBytes {
		return Principal{}, fmt.Errorf("%w: token longer than %d bytes", ErrForbidden, TokenBytes)
	}
	var c claims
	var from *issuer
	var leave func(forged bool)
	_, err := v.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		// Nothing vouches for the token yet. Whatever can be wrong with it is looked at before
		// its signature, which costs most, and by which nothing of this can change.
		var err error
		if from, err = v.examine(t, &c); err != nil {
			return nil, err
		}
		keys, err := from.candidates(ctx, t)
		if err != nil {
			return nil, err
		}
		leave, err = v.forged.enter(ctx, at)
		return keys, err
	})
	if leave != nil {
		leave(errors.Is(err, jwt.ErrTokenSignatureInvalid))
	}
	var tooMany *TooMany
	switch {
	case errors.As(err, &tooMany):
		return Principal{}, tooMany
	case errors.Is(err, ErrUnavailable):
		return Principal{}, fmt.Errorf("%w: no keys of this token's issuer yet", ErrUnavailable)
	case err != nil:
		return Principal{}, fmt.Errorf("%w: %s", ErrForbidden, reason(err))
	}
	return Principal{
		Kind: Token, User: from.name(c.Subject), Roles: from.roles(&c),
		Expires: v.end(c.Expires.Time),
	}, nil
}

// end is when a session ends whose token has that exp and counts now.
func (v *verifier) end(exp time.Time) time.Time {
	if v.now().Before(exp) {
		return exp
	}
	return exp.Add(leeway)
}

// examine returns the issuer that a token names, if all that it says makes it one that signs
// in. That it is who says so has to be found out then: tokens of other issuers cause no
// search for keys.
func (v *verifier) examine(t *jwt.Token, c *claims) (*issuer, error) {
	from := v.issuers[c.Issuer]
	if from == nil {
		return nil, refusal("token of another issuer")
	}
	// RFC 7515, section 4.1.11: a header that must be understood and is not voids the token.
	if _, ok := t.Header["crit"]; ok {
		return nil, refusal("token with a critical header")
	}
	// keyfunc would try a token without an id with every key.
	if id, ok := t.Header["kid"].(string); !ok || id == "" {
		return nil, errUnknownKey
	}
	if err := c.refuse(t.Header); err != nil {
		return nil, err
	}
	if err := v.current(c); err != nil {
		return nil, err
	}
	if !from.meant(c) {
		return nil, refusal("token is meant for another client")
	}
	if !ValidUser(c.Subject) {
		return nil, refusal("token's sub is missing or no user name")
	}
	return from, nil
}

// current says why a token does not count now, by its dates.
func (v *verifier) current(c *claims) error {
	now := v.now()
	switch {
	case c.Expires == nil:
		return refusal("token without exp")
	case !now.Before(c.Expires.Add(leeway)):
		return refusal("expired token")
	case c.NotBefore != nil && now.Add(leeway).Before(c.NotBefore.Time):
		return refusal("token is not valid yet")
	}
	return nil
}

// roles returns the roles that count: those of the realm, and those of Drogue's two clients.
func (c *claims) roles() []string {
	roles := slices.Concat(c.Realm.Roles, c.Resources["services"].Roles, c.Resources["drogue"].Roles)
	slices.Sort(roles)
	return slices.Compact(roles)
}

// refusal is why a token does not count, in fixed words.
type refusal string

// Error returns those words.
func (r refusal) Error() string { return string(r) }

// reason says in fixed words why a token was refused.
func reason(err error) string {
	own := refusal("token cannot be verified")
	switch {
	case errors.As(err, &own):
	case errors.Is(err, jwt.ErrTokenMalformed):
		own = "malformed token"
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		own = "token's signature or algorithm is not valid"
	}
	return own.Error()
}
