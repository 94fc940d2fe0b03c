package drogue

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/openid"
	"canopy/shared/config"
)

func TestReadinessNamesTheServiceThatHasNotAnswered(t *testing.T) {
	s := newStub(t)
	s.set(func(s *stub) { s.issuer = http.StatusUnauthorized })
	down := httptest.NewServer(http.NotFoundHandler())
	defer down.Close()
	source, _, _ := s.source(func(c *config.Config) {
		c.Registry = c.UserAuth
		c.UserAuth.URL = down.URL // whatever is there, it is not Drogue's service of users
	})
	checks := source.Checks()
	waitFor(t, "refused client", func() bool {
		err := checks["registry"]()
		return err != nil && strings.Contains(err.Error(), "token: status 401")
	})
	s.set(func(s *stub) { s.issuer = 0 })
	waitFor(t, "answer of the registry", func() bool { return checks["registry"]() == nil })
	waitFor(t, "wrong answer", func() bool {
		err := checks["user_auth"]()
		return err != nil && strings.Contains(err.Error(), "status 404")
	})
}

// fakeIssuer is a transport that plays an issuer in a bubble of synctest.
type fakeIssuer func(*http.Request) (int, string)

func (f fakeIssuer) RoundTrip(r *http.Request) (*http.Response, error) {
	status, body := f(r)
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

func TestTokensAreRenewedBeforeTheyEndAndLastThroughAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		given, down := 0, false
		issuer, err := openid.NewIssuer("http://issuer.example", fakeIssuer(func(r *http.Request) (int, string) {
			switch {
			case down:
				return http.StatusServiceUnavailable, ""
			case r.URL.Path == "/token":
				given++
				return http.StatusOK, fmt.Sprintf(`{"access_token":"t%d","token_type":"Bearer","expires_in":300}`, given)
			default:
				return http.StatusOK, `{"issuer":"http://issuer.example","token_endpoint":"http://issuer.example/token"}`
			}
		}))
		if err != nil {
			t.Fatal(err)
		}
		k := &tokens{life: t.Context(), issuer: issuer, id: "c", secret: "s", now: time.Now}
		want := func(token string) {
			t.Helper()
			if got, err := k.get(t.Context()); got != token || err != nil {
				t.Errorf("got %q, %v, want %s", got, err, token)
			}
		}
		want("t1")
		time.Sleep(269 * time.Second)
		want("t1")
		time.Sleep(2 * time.Second) // 29 s before its end
		want("t2")
		down = true
		time.Sleep(299 * time.Second)
		want("t2")
		time.Sleep(2 * time.Second)
		if got, err := k.get(t.Context()); err == nil {
			t.Errorf("a token that has ended is given: %q", got)
		}
		down = false
		want("t3")
		k.reject("t2")
		want("t3")
		k.reject("t3")
		want("t4")
	})
}

func TestNoSecretIsInLogsMetricsOrErrors(t *testing.T) {
	s := newStub(t)
	s.key("alice", aliceKey, `"Unknown"`)
	source, logs, reg := s.source(nil)
	waitFor(t, "first answer", func() bool { return source.users.ready() == nil })
	var errs []error
	try := func() {
		_, err := source.VerifyKey(t.Context(), "alice", aliceKey, nil)
		errs = append(errs, err)
		_, _, err = source.MayRead(t.Context(), authn.Principal{Kind: authn.Key, User: "alice", Login: authn.NewKey("alice", aliceKey)}, "app", nil)
		errs = append(errs, err)
	}
	try()
	later(source)(10 * time.Minute)
	s.set(func(s *stub) { s.fail = http.StatusInternalServerError })
	try()
	s.set(func(s *stub) { s.fail, s.token, s.issuer = 0, "another", http.StatusUnauthorized })
	try()
	waitFor(t, "end of the rest", func() bool { return !source.users.rests(users) })
	s.set(func(s *stub) { s.issuer, s.fail = 0, http.StatusFound })
	try()
	text := fmt.Sprintf("%v %+v", errs, logs.All())
	for _, entry := range logs.All() {
		text += fmt.Sprint(entry.Message, entry.ContextMap())
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 && !strings.Contains(problems[0].Metric, "drogue_client") {
		t.Errorf("metrics: %v, %v", problems, err)
	}
	text += gathered(t, reg)
	if !strings.Contains(text, "status 500") || !strings.Contains(text, "status 401") || !strings.Contains(text, "status 302") {
		t.Fatalf("not everything failed that should: %s", text)
	}
	for _, secret := range []string{aliceKey, clientSecret, "s3cr3t", "token-1"} {
		if strings.Contains(text, secret) {
			t.Errorf("%q stands in %s", secret, text)
		}
	}
}

func gathered(t *testing.T, reg *prometheus.Registry) string {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(families)
}
