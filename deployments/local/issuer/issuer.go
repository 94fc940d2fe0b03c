// Package issuer is a small OpenID issuer for the local stack and for tests: discovery, a
// set of signing keys, and tokens by the client-credentials grant. It keeps its users in
// memory with their passwords in the clear, so it is not for production.
package issuer

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// DefaultTTL is the lifetime of a token whose request names none.
	DefaultTTL = 5 * time.Minute

	// maxTTL bounds the lifetime that a request may ask for, in both directions.
	maxTTL = 24 * time.Hour
)

// Config is what an Issuer is made from.
type Config struct {
	// URL is the issuer's name, as tokens carry it in iss and as the edge is given it:
	// an http URL without a path, under which Handler is reachable.
	URL string

	// Audience is the client id that tokens are meant for (aud and azp).
	Audience string

	// Users holds the secret of each user. A token's sub is the user.
	Users map[string]string

	// Key signs the tokens. Nil means a new one of 2048 bits.
	Key *rsa.PrivateKey
}

// Issuer signs tokens. All its methods may be called from any goroutine.
type Issuer struct {
	url      string
	audience string
	users    map[string]string

	mu      sync.RWMutex
	current signingKey
	former  []signingKey // still published, so that tokens outlive a rotation
}

// New makes an issuer. Its only error is that no key could be made.
func New(cfg Config) (*Issuer, error) {
	key := cfg.Key
	if key == nil {
		var err error
		if key, err = NewKey(); err != nil {
			return nil, err
		}
	}
	return &Issuer{
		url:      cfg.URL,
		audience: cfg.Audience,
		users:    cfg.Users,
		current:  newSigningKey(key),
	}, nil
}

// Rotate signs from now on with a new key. Tokens signed before stay valid: the former
// keys stay in the set.
func (i *Issuer) Rotate() error {
	key, err := NewKey()
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.former = append(i.former, i.current)
	i.current = newSigningKey(key)
	return nil
}

// Forget takes the former keys out of the set, so that tokens signed by them are void as
// soon as whoever checks them has read the set again.
func (i *Issuer) Forget() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.former = nil
}

// Token signs a token for user that expires ttl from now, in whole seconds; a negative ttl
// makes one that has expired. It does not ask whether the user exists.
func (i *Issuer) Token(user string, ttl time.Duration) (string, error) {
	issued := time.Now().Truncate(time.Second)
	i.mu.RLock()
	key := i.current
	i.mu.RUnlock()
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
		"iss":          i.url,
		"sub":          user,
		"aud":          i.audience,
		"azp":          i.audience,
		"iat":          issued.Unix(),
		"exp":          issued.Add(ttl).Unix(),
		"jti":          rand.Text(),
		"typ":          "Bearer",
		"realm_access": map[string]any{"roles": []string{"drogue-user"}},
	})
	token.Header["kid"] = key.id
	signed, err := token.SignedString(key.private)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return signed, nil
}

// parseTTL reads the lifetime of a token request, "" means DefaultTTL.
func parseTTL(s string) (time.Duration, error) {
	if s == "" {
		return DefaultTTL, nil
	}
	ttl, err := time.ParseDuration(s)
	if err != nil || ttl > maxTTL || ttl < -maxTTL {
		return 0, errors.New("ttl must be a duration such as 60s, of at most 24h")
	}
	return ttl, nil
}
