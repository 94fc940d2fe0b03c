package authn

import (
	"encoding/base64"
	"net/http"
	"strings"
	"unicode/utf8"
)

// Query holds the query parameters that carry credentials, percent-decoded. A parameter
// that the request does not have is nil; one that is there and empty is not.
type Query struct {
	Token    *string // token
	Username *string // username
	APIKey   *string // api_key
}

// Credentials are what a request brings along to say who it is. The zero value is what
// an anonymous client brings. Printing them shows their kind only.
type Credentials struct {
	kind   Kind
	basic  bool
	user   string
	secret string
}

// Invalid says that the credentials of a request cannot be read.
type Invalid struct {
	// Reason is a fixed text without any part of the request.
	Reason string
}

// Error returns the reason for operators.
func (e *Invalid) Error() string { return "invalid request: " + e.Reason }

// Message returns the text that the client gets, with status 403.
func (e *Invalid) Message() string { return "Invalid request: " + e.Reason }

// Kind says which kind of credentials these are.
func (c Credentials) Kind() Kind { return c.kind }

// NewKey returns the credentials of an API key, to be kept: they are copies.
func NewKey(user, key string) Credentials {
	return Credentials{kind: Key, user: strings.Clone(user), secret: strings.Clone(key)}
}

// APIKey returns the user and the key of credentials of kind Key, and nothing of others.
func (c Credentials) APIKey() (user, key string) {
	if c.kind != Key {
		return "", ""
	}
	return c.user, c.secret
}

// Basic reports whether the credentials came in a Basic header, which a browser sends by
// itself, whichever page opens the socket.
func (c Credentials) Basic() bool { return c.basic }

// String returns the kind of the credentials, and nothing that is secret.
func (c Credentials) String() string { return c.kind.String() + " credentials" }

// GoString is String: it keeps secrets out of %#v.
func (c Credentials) GoString() string { return c.String() }

// FromRequest reads the credentials of a request from its headers and its query. A
// request has at most one kind of them. The error is an *Invalid.
func FromRequest(header http.Header, query Query) (Credentials, error) {
	var found []Credentials
	for _, read := range []func() (Credentials, bool, error){
		func() (Credentials, bool, error) { return fromHeader(header.Values("Authorization")) },
		func() (Credentials, bool, error) { return fromToken(query.Token) },
		func() (Credentials, bool, error) { return fromKey(query.Username, query.APIKey) },
	} {
		c, ok, err := read()
		if err != nil {
			return Credentials{}, err
		}
		if ok {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 0:
		return Credentials{}, nil
	case 1:
		return found[0], nil
	default:
		return Credentials{}, &Invalid{"more than one kind of credentials"}
	}
}

// fromHeader reads the Authorization headers of a request.
func fromHeader(values []string) (Credentials, bool, error) {
	if len(values) == 0 {
		return Credentials{}, false, nil
	}
	if len(values) > 1 {
		return Credentials{}, false, &Invalid{"more than one Authorization header"}
	}
	scheme, value, _ := strings.Cut(strings.TrimSpace(values[0]), " ")
	value = strings.TrimSpace(value)
	switch strings.ToLower(scheme) {
	case "bearer":
		return fromToken(&value)
	case "basic":
		return fromBasic(value)
	default:
		return Credentials{}, false, &Invalid{"unknown scheme in the Authorization header"}
	}
}

// fromBasic reads the value of a Basic header (RFC 7617): the user ends at the first colon.
func fromBasic(value string) (Credentials, bool, error) {
	decoded, err := base64.StdEncoding.DecodeString(value)
	if err != nil || !utf8.Valid(decoded) {
		return Credentials{}, false, &Invalid{"undecodable Authorization header"}
	}
	user, key, _ := strings.Cut(string(decoded), ":")
	if key == "" {
		return Credentials{}, false, &Invalid{"Basic credentials without a password"}
	}
	if user == "" {
		return Credentials{}, false, &Invalid{"Basic credentials without a user"}
	}
	return Credentials{kind: Key, basic: true, user: user, secret: key}, true, nil
}

// fromToken reads an OpenID token; nil is none.
func fromToken(token *string) (Credentials, bool, error) {
	if token == nil {
		return Credentials{}, false, nil
	}
	if *token == "" {
		return Credentials{}, false, &Invalid{"empty token"}
	}
	return Credentials{kind: Token, secret: *token}, true, nil
}

// fromKey reads an API key from the query, where both parameters stand or none.
func fromKey(user, key *string) (Credentials, bool, error) {
	if user == nil && key == nil {
		return Credentials{}, false, nil
	}
	if user == nil || *user == "" {
		return Credentials{}, false, &Invalid{"api_key without username"}
	}
	if key == nil || *key == "" {
		return Credentials{}, false, &Invalid{"username without api_key"}
	}
	if !utf8.ValidString(*user) || !utf8.ValidString(*key) {
		return Credentials{}, false, &Invalid{"undecodable username or api_key"}
	}
	return Credentials{kind: Key, user: *user, secret: *key}, true, nil
}
