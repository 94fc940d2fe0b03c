package drogue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
	"golang.org/x/sync/singleflight"

	"canopy/edge/internal/openid"
)

const (
	// renewBefore is how long before its end a token is replaced, but not before
	// renewPart of its life is over.
	renewBefore = 30 * time.Second
	renewPart   = 0.8
	// unstated is the life of a token whose issuer does not state it.
	unstated = time.Minute
)

// tokens gets the bearer tokens of one client, by the client-credentials grant. Any
// goroutine may use it.
type tokens struct {
	life       context.Context // requests end with it
	issuer     *openid.Issuer
	id, secret string
	now        func() time.Time
	flight     singleflight.Group

	mu      sync.Mutex
	token   string
	renew   time.Time
	expires time.Time
}

// get returns a token that is good for a call now. One request serves all who wait, and
// while it fails a token that has not ended yet still counts.
func (t *tokens) get(ctx context.Context) (string, error) {
	token, renew, _ := t.current()
	if t.now().Before(renew) {
		return token, nil
	}
	done := t.flight.DoChan("", func() (any, error) {
		if token, renew, _ := t.current(); t.now().Before(renew) {
			return token, nil // somebody was faster
		}
		err := t.fetch(t.life)
		token, _, expires := t.current()
		if err != nil && !t.now().Before(expires) {
			return "", err
		}
		return token, nil
	})
	select {
	case result := <-done:
		return result.Val.(string), result.Err
	case <-ctx.Done():
		return "", fmt.Errorf("get token of the client: %w", ctx.Err())
	}
}

// current returns the token that is there, if any, and until when.
func (t *tokens) current() (token string, renew, expires time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.token, t.renew, t.expires
}

// reject forgets a token that a service did not take.
func (t *tokens) reject(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token == token {
		t.token, t.renew, t.expires = "", time.Time{}, time.Time{}
	}
}

// fetch asks the issuer where to get a token, and gets one. The error holds nothing of
// the answers, which may repeat the secret.
func (t *tokens) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openid.Timeout)
	defer cancel()
	at, err := t.issuer.Discover(ctx)
	if err != nil {
		return fmt.Errorf("find token endpoint: %w", err)
	}
	if at.Token == "" {
		return fmt.Errorf("find token endpoint: %s names none", t.issuer.URL())
	}
	asked := t.now()
	grant := clientcredentials.Config{
		ClientID: t.id, ClientSecret: t.secret, TokenURL: at.Token,
		AuthStyle: oauth2.AuthStyleInHeader, // RFC 6749, 2.3.1: what every issuer must support
	}
	token, err := grant.Token(context.WithValue(ctx, oauth2.HTTPClient, t.issuer.Client()))
	if err != nil {
		var refused *oauth2.RetrieveError
		if errors.As(err, &refused) && refused.Response != nil {
			return fmt.Errorf("get token at %s: status %d", at.Token, refused.Response.StatusCode)
		}
		return fmt.Errorf("get token at %s: %w", at.Token, err)
	}
	life := unstated
	if token.ExpiresIn > 0 {
		life = time.Duration(token.ExpiresIn) * time.Second
	} else if !token.Expiry.IsZero() {
		life = time.Until(token.Expiry)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.token, t.expires = token.AccessToken, asked.Add(life)
	t.renew = asked.Add(max(life-renewBefore, time.Duration(renewPart*float64(life))))
	return nil
}
