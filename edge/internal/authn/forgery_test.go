package authn

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func TestForgedTokensOfOneAddressTakeTurnsAndLockNobodyOut(t *testing.T) {
	i := newTestIssuer(t)
	i.publish(t, "one")
	a := readyAuthenticator(t, i)
	now := time.Now()
	a.tokens.forged = newForgeries(func() time.Time { return now })
	good := i.tokenOf(t, "one").secret
	forged := sign(t, jwt.SigningMethodRS256, rsaKey(t, "other"), "one", i.goodClaims())
	expired := i.press(t, nil, map[string]any{"exp": 1})
	bad, other, third := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	try := func(token string, from netip.Addr) error {
		_, err := a.Authenticate(t.Context(), Credentials{kind: Token, secret: token}, from)
		return err
	}
	for n := range 2 * addressBurst {
		if err := try(forged, bad); !errors.Is(err, ErrForbidden) {
			t.Fatalf("forgery %d: got %v, want ErrForbidden", n, err)
		}
		if err := try(expired, third); !errors.Is(err, ErrForbidden) {
			t.Fatalf("expired token %d: got %v, want ErrForbidden", n, err)
		}
		if err := try(good, third); err != nil {
			t.Fatalf("good token %d: %v", n, err)
		}
	}
	if err := try(good, bad); err != nil {
		t.Errorf("a good token from the address of the forgeries: %v", err)
	}
	a.tokens.forged.turn <- struct{}{} // one is being verified
	var tooMany *TooMany
	start := time.Now()
	if err := try(good, bad); !errors.As(err, &tooMany) || tooMany.RetryAfter <= 0 {
		t.Errorf("beside another one that does not end: got %v, want TooMany", err)
	}
	if waited := time.Since(start); waited < turnWait {
		t.Errorf("it waited %v for its turn, want %v", waited, turnWait)
	}
	for name, from := range map[string]netip.Addr{"an address of expired tokens": third, "another address": other, "an open socket": {}} {
		if err := try(good, from); err != nil {
			t.Errorf("meanwhile, from %s: %v", name, err)
		}
	}
	for _, token := range []string{expired, "nonsense", strings.Replace(good, ".", "x.", 1)} {
		start := time.Now()
		if err := try(token, bad); !errors.Is(err, ErrForbidden) || time.Since(start) >= turnWait {
			t.Errorf("what costs no signature waits for no turn: got %v after %v", err, time.Since(start))
		}
	}
	now = now.Add(addressInterval)
	if err := try(good, bad); err != nil {
		t.Errorf("after the interval: %v", err)
	}
	<-a.tokens.forged.turn
}
