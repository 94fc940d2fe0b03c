package authn

import (
	"context"
	"errors"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
)

// storage is an issuer's key set as keyfunc reads it, one key at a time. Whatever else a
// storage does is that of an empty one: no token may be tried with all keys, as keyfunc does
// with one that has no key id.
type storage struct {
	jwkset.Storage
	keys *keySet
}

// newKeyfunc returns a keyfunc over an issuer's keys. It picks a token's key by its id, and
// refuses one that is meant for another algorithm or for another use.
func newKeyfunc(keys *keySet) (keyfunc.Keyfunc, error) {
	return keyfunc.New(keyfunc.Options{
		Storage:      storage{jwkset.NewMemoryStorage(), keys},
		UseWhitelist: uses,
	})
}

// candidates is the context in which keyfunc looks for the keys of one token. There may be
// several with its id, and keyfunc takes one: each time it is asked it finds the next one.
type candidates struct {
	context.Context
	algorithm string
	found     bool
	rest      []jwkset.JWK // that were found and were not handed out yet
}

// KeyRead returns the next key of an id that is of the type of the token's algorithm. The
// error is that of the key set.
func (s storage) KeyRead(ctx context.Context, id string) (jwkset.JWK, error) {
	c, ok := ctx.(*candidates)
	if !ok || id == "" {
		return jwkset.JWK{}, errUnknownKey
	}
	if !c.found {
		keys, err := s.keys.read(ctx, id)
		if err != nil {
			return jwkset.JWK{}, err
		}
		c.found, c.rest = true, keys
	}
	for len(c.rest) > 0 {
		key := c.rest[0]
		c.rest = c.rest[1:]
		if fits(key, c.algorithm) {
			return key, nil
		}
	}
	return jwkset.JWK{}, errUnknownKey
}

// candidates returns the keys of the issuer one of which must vouch for a token. The error is
// errUnknownKey or ErrUnavailable.
func (i *issuer) candidates(ctx context.Context, t *jwt.Token) (set jwt.VerificationKeySet, err error) {
	c := &candidates{Context: ctx, algorithm: t.Method.Alg()}
	next := i.keyfunc.KeyfuncCtx(c)
	for more := true; more; more = len(c.rest) > 0 {
		key, err := next(t)
		if errors.Is(err, ErrUnavailable) {
			return set, ErrUnavailable
		}
		if err == nil {
			set.Keys = append(set.Keys, key)
		}
	}
	if len(set.Keys) == 0 {
		return set, errUnknownKey
	}
	return set, nil
}
