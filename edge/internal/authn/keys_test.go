package authn

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"canopy/edge/internal/openid"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// tokenOf is a good token, signed with the named key, whose name is its id.
func (i *testIssuer) tokenOf(t testing.TB, name string) Credentials {
	t.Helper()
	return Credentials{kind: Token, secret: sign(t, jwt.SigningMethodRS256, rsaKey(t, name), name, i.goodClaims())}
}

// publish makes the named keys the issuer's.
func (i *testIssuer) publish(t testing.TB, names ...string) {
	t.Helper()
	i.set(func(i *testIssuer) {
		i.keys = nil
		for _, name := range names {
			i.keys = append(i.keys, publicJWK(t, rsaKey(t, name).Public(), name, jwkset.UseSig))
		}
	})
}

func TestIssuerThatComesUpLaterMakesTheEdgeReady(t *testing.T) {
	i := newTestIssuer(t)
	i.publish(t, "one")
	i.set(func(i *testIssuer) { i.down = true })
	a := startAuthenticator(t, i.config())
	waitFor(t, "failed attempt", func() bool {
		err := a.Ready()
		return err != nil && strings.Contains(err.Error(), "status 503")
	})
	_, err := a.Authenticate(t.Context(), i.tokenOf(t, "one"), netip.Addr{})
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrForbidden) {
		t.Errorf("without keys: got %v, want ErrUnavailable", err)
	}
	if _, err := a.Authenticate(t.Context(), Credentials{kind: Token, secret: "x.y.z"}, netip.Addr{}); !errors.Is(err, ErrForbidden) {
		t.Errorf("malformed token without keys: got %v, want ErrForbidden", err)
	}
	i.set(func(i *testIssuer) { i.down = false })
	waitReady(t, a)
	if _, err := a.Authenticate(t.Context(), i.tokenOf(t, "one"), netip.Addr{}); err != nil {
		t.Errorf("with keys: %v", err)
	}
}

func TestRotatedKeySignsInAtOnceAndTheOldOneNoMore(t *testing.T) {
	i := newTestIssuer(t)
	i.publish(t, "one")
	a := readyAuthenticator(t, i)
	i.publish(t, "other")
	if _, err := a.Authenticate(t.Context(), i.tokenOf(t, "other"), netip.Addr{}); err != nil {
		t.Errorf("new key: %v", err)
	}
	if _, err := a.Authenticate(t.Context(), i.tokenOf(t, "one"), netip.Addr{}); !errors.Is(err, ErrForbidden) {
		t.Errorf("old key: got %v, want ErrForbidden", err)
	}
	if n := i.fetched(); n != 2 {
		t.Errorf("%d fetches, want 2: the second unknown key id came too soon for a third", n)
	}
}

func TestLastKeysCountWhileTheIssuerIsAway(t *testing.T) {
	i := newTestIssuer(t)
	i.publish(t, "one")
	a := readyAuthenticator(t, i)
	i.set(func(i *testIssuer) { i.down = true })
	// An unknown key id makes the edge notice the outage, and is no reason for a 500: the
	// issuer's keys are known, and this is none of them.
	if _, err := a.Authenticate(t.Context(), i.tokenOf(t, "other"), netip.Addr{}); !errors.Is(err, ErrForbidden) {
		t.Fatalf("unknown key during the outage: got %v, want ErrForbidden", err)
	}
	if err := i.of(t, a).keys.err; err == nil {
		t.Fatal("the outage was not noticed")
	}
	if _, err := a.Authenticate(t.Context(), i.tokenOf(t, "one"), netip.Addr{}); err != nil {
		t.Errorf("known key during the outage: %v", err)
	}
	if err := a.Ready(); err != nil {
		t.Errorf("not ready during the outage: %v", err)
	}
}

func TestUnusableKeySetDoesNotReplaceTheLastOne(t *testing.T) {
	i := newTestIssuer(t)
	i.publish(t, "one")
	a := readyAuthenticator(t, i)
	i.set(func(i *testIssuer) { i.keys = nil })
	if _, err := a.Authenticate(t.Context(), i.tokenOf(t, "other"), netip.Addr{}); !errors.Is(err, ErrForbidden) {
		t.Fatalf("unknown key: got %v, want ErrForbidden", err)
	}
	if n := i.fetched(); n != 2 {
		t.Fatalf("%d fetches: the empty set was not noticed", n)
	}
	if _, err := a.Authenticate(t.Context(), i.tokenOf(t, "one"), netip.Addr{}); err != nil {
		t.Errorf("last key: %v", err)
	}
}

func TestOneKeyThatNobodyUnderstandsHidesNoOther(t *testing.T) {
	i := newTestIssuer(t)
	i.publish(t, "one")
	i.set(func(i *testIssuer) {
		i.keys = append([]json.RawMessage{
			json.RawMessage(`{"kty":"OKP","crv":"Ed448","kid":"a","x":"AA"}`),
			json.RawMessage(`{"kty":7}`),
			json.RawMessage(`{"kty":"oct","kid":"b","k":"c2VjcmV0"}`),
		}, i.keys...)
	})
	a := readyAuthenticator(t, i)
	if _, err := a.Authenticate(t.Context(), i.tokenOf(t, "one"), netip.Addr{}); err != nil {
		t.Error(err)
	}
}

// runKeySet runs a key set with a fetch of its own, in a bubble of synctest.
func runKeySet(t *testing.T, fetch func(context.Context) ([]jwkset.JWK, error)) *keySet {
	t.Helper()
	refreshes := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "refresh"}, []string{"outcome"})
	k := newKeySet(fetch, zap.NewNop(), refreshes)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		k.run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	synctest.Wait()
	return k
}

func TestUnknownKeyIdsCauseOneRefreshInTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fetches := 0
		k := runKeySet(t, func(context.Context) ([]jwkset.JWK, error) {
			fetches++
			return nil, nil
		})
		for range 300 { // over 30 s
			if _, err := k.read(t.Context(), "nobody's"); !errors.Is(err, errUnknownKey) {
				t.Fatalf("got %v, want errUnknownKey", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if fetches != 1+3 {
			t.Errorf("%d fetches, want the first and one in 10 s", fetches)
		}
	})
}

func TestAnUnknownKeyIdThatComesWithTheClockIsNoSecondFetch(t *testing.T) {
	fetches := 0
	k := newKeySet(func(context.Context) ([]jwkset.JWK, error) { fetches++; return nil, nil }, zap.NewNop(),
		prometheus.NewCounterVec(prometheus.CounterOpts{Name: "refresh"}, []string{"outcome"}))
	k.refresh(t.Context())
	done, _ := k.askForRefresh()
	k.refresh(t.Context()) // because it is time, before run has seen the wish
	select {
	case <-done:
	default:
		t.Error("who waits for the key is not told")
	}
	if len(k.wanted) != 0 || fetches != 2 {
		t.Errorf("after %d fetches %d more are wanted, want 2 and none", fetches, len(k.wanted))
	}
}

func TestNoTokenWaitsLongerThanASecondForAnIssuerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := false
		k := runKeySet(t, func(ctx context.Context) ([]jwkset.JWK, error) {
			if !hang {
				return nil, nil
			}
			ctx, cancel := context.WithTimeout(ctx, openid.Timeout)
			defer cancel()
			<-ctx.Done()
			return nil, ctx.Err()
		})
		hang = true
		start := time.Now()
		for range 4 { // one after the other, during one attempt
			if _, err := k.read(t.Context(), "new"); !errors.Is(err, errUnknownKey) {
				t.Fatalf("got %v, want errUnknownKey", err)
			}
		}
		if waited := time.Since(start); waited != unknownWait {
			t.Errorf("four tokens waited %v together, want %v", waited, unknownWait)
		}
	})
}

func TestPausesAfterFailuresGrowToAQuarterOfAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		start := time.Now()
		runKeySet(t, func(context.Context) ([]jwkset.JWK, error) {
			at = append(at, time.Since(start))
			return nil, errors.New("down")
		})
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(at); n < 40 || n > 70 {
			t.Errorf("%d attempts in ten minutes of outage", n)
		}
		if first, last := at[1], at[len(at)-1]-at[len(at)-2]; first > retryMin || last < retryMax/2 || last > retryMax {
			t.Errorf("first pause %v, last pause %v", first, last)
		}
	})
}

func TestIssuerInTroubleIsAskedOnceInTenSecondsWhateverTokensCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		k := runKeySet(t, func(context.Context) ([]jwkset.JWK, error) {
			at = append(at, time.Now())
			if len(at) > 1 {
				return nil, errors.New("down")
			}
			return nil, nil
		})
		time.Sleep(refreshInterval + time.Second) // the outage is noticed in the background
		for range 1000 {
			_, _ = k.read(t.Context(), "made up")
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		for n := 2; n < len(at); n++ {
			if pause := at[n].Sub(at[n-1]); pause < unknownInterval {
				t.Errorf("fetch %d came %v after the one before", n, pause)
			}
		}
		if len(at) < 8 {
			t.Errorf("only %d fetches in 100 s", len(at))
		}
	})
}

func TestRotationIsKnownWithinHalfAMinuteWithoutAnyToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fetches := 0
		runKeySet(t, func(context.Context) ([]jwkset.JWK, error) {
			fetches++
			return nil, nil
		})
		time.Sleep(30*time.Second - openid.Timeout)
		synctest.Wait()
		if fetches != 2 {
			t.Errorf("%d fetches, want a second one that ends within 30 s", fetches)
		}
	})
}
