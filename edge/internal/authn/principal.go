// Package authn answers who a client is: anonymous, a user with a token of an OpenID
// issuer, or a user with an API key. What a user may read is the business of package
// authz, which takes the Principal that comes out here.
//
// Nothing in this package puts a token or a key into an error, a log line or a metric.
package authn

import (
	"errors"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// ErrForbidden says that credentials were read and do not count: a bad or expired token,
// an unknown or expired key. The wrapping error names the reason for operators; clients
// are told no more than 403.
var ErrForbidden = errors.New("forbidden")

// ErrUnavailable says that nobody can tell whether credentials count, because the keys of
// the issuer are not there. Clients get 500.
var ErrUnavailable = errors.New("authentication is not available")

// ErrBusy says that too many questions were under way for one more to be put. Clients get
// 503.
var ErrBusy = errors.New("too many questions at once")

// ErrNotAsked says that a source of API keys would have to ask somebody, and was told not to.
var ErrNotAsked = errors.New("not known without asking")

// Kind says how a client signed in.
type Kind uint8

// The kinds of principals. The zero value is the one with the fewest rights.
const (
	Anonymous Kind = iota // no credentials
	Token                 // a token of the OpenID issuer
	Key                   // an API key
)

// String returns "anonymous", "token" or "key".
func (k Kind) String() string {
	switch k {
	case Token:
		return "token"
	case Key:
		return "key"
	default:
		return "anonymous"
	}
}

// Principal is who a client is. The zero value is an anonymous client. A Principal is
// never changed after it was made, so that any number of goroutines may share it.
type Principal struct {
	// Kind says how the client signed in.
	Kind Kind
	// User is the token's sub or the key's user; empty only for an anonymous client. Users
	// of the second and further issuers are written <N>/<sub>, with the number of the
	// issuer's client; every other name contains no slash. None begins with "role:".
	User string
	// Roles are those of the token, or what Drogue's services say of a key, sorted, each
	// once. Those of the second and further issuers are written <N>/<role>.
	Roles []string
	// Expires is when a session with this token ends. It is zero for all others: when an API
	// key expires may change while its socket is open, and its source is asked again then.
	Expires time.Time
	// KeyID is the SHA-256 of the API key, by which a key that was withdrawn while its
	// socket is open is noticed. It is zero for other kinds.
	KeyID [32]byte
	// Login is what an API key signed in with, for a source that has to ask again about
	// it and is told nothing by a hash. It is anonymous for all others.
	Login Credentials
}

// Same reports whether two principals are the same user, signed in the same way. Roles
// and expiry may differ.
func (p Principal) Same(q Principal) bool { return p.Kind == q.Kind && p.User == q.User }

// String returns the kind and the user, for logs. It leaves out the key's hash.
func (p Principal) String() string {
	if p.Kind == Anonymous {
		return p.Kind.String()
	}
	return p.Kind.String() + " " + p.User
}

// GoString is String: it keeps the hash out of %#v.
func (p Principal) GoString() string { return p.String() }

// OwnRoles returns the roles of the first issuer, or of Drogue's services, that may count:
// one that is written like a role of a further issuer must not be taken for it. It takes
// the list over, and returns it sorted, each role once.
func OwnRoles(roles []string) []string {
	roles = slices.DeleteFunc(roles, func(role string) bool {
		number, _, found := strings.Cut(role, "/")
		return found && number != "" && strings.Trim(number, "0123456789") == ""
	})
	slices.Sort(roles)
	return slices.Compact(roles)
}

// userBytes is the length of the longest user name.
const userBytes = 1 << 10

// ValidUser reports whether a name may be a user's. Names that begin with "role:" or
// contain a slash are not, because the list of an application's members writes roles and
// the users of further issuers that way: identities must never meet. Nor are names that
// would look like another one in a log, or fill it.
func ValidUser(name string) bool {
	return name != "" && len(name) <= userBytes && utf8.ValidString(name) &&
		!strings.HasPrefix(name, "role:") && !strings.Contains(name, "/") &&
		!strings.ContainsFunc(name, unicode.IsControl)
}
