package gateway

import (
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/zap/zaptest"
)

// The second issuer has told of itself, but never given its keys, so that nobody can tell
// whether its tokens count. Once it has, this one is another user's.
func TestARefreshWithATokenThatCannotBeVerifiedClosesWith1011(t *testing.T) {
	first, second := startOIDC(t), startOIDC(t)
	second.mute.Store(true)
	s := startUnreadyEdge(t, zaptest.NewLogger(t), trust(first, second))
	missing := `"openid":{"success":false,"error":"no keys of the OpenID issuer ` + second.Issuer() + ` yet: `
	s.await("an edge that lacks the second issuer's keys and nothing else", func() bool {
		status, body := s.health("/readiness")
		return status == 503 && strings.Contains(body, missing) && strings.Contains(body, "status 503") && strings.Count(body, `"success":false`) == 2
	})
	token := first.sign(first.claims("alice"))
	stays := s.dial("/secret-app?token="+token, nil)
	strange := `{"RefreshAccessToken":"` + second.sign(second.claims("alice")) + `"}`
	const reason = "Failed to refresh token: tokens cannot be verified now"
	for range 2 {
		socket := s.dial("/secret-app?token="+token, nil)
		s.write(socket, strange)
		wantClose(t, socket, websocket.StatusInternalError, reason)
	}
	for counted, want := range map[string]float64{
		`drogue_client_user_authentication_access_token{outcome="error"}`: 2,
		`canopy_edge_closed_total{code="1011"}`:                           2,
	} {
		if n := s.metric(counted); n != want {
			t.Errorf("%s is %v, want %v", counted, n, want)
		}
	}
	s.publish("secret-app", "", 1)
	if r := read(t, stays); r.Data.N != 1 {
		t.Errorf("a socket that has sent no token got %+v", r)
	}
	second.mute.Store(false)
	s.waitReady()
	s.write(stays, strange)
	wantClose(t, stays, websocket.StatusPolicyViolation, "Failed to refresh token")
}

// TestManySocketsThatRefreshAtOnceStaySignedIn has 200 of them, or as many as
// CANOPY_TEST_SOCKETS says.
func TestManySocketsThatRefreshAtOnceStaySignedIn(t *testing.T) {
	o := startOIDC(t)
	s := startEdge(t, trust(o))
	n := sockets(t)
	old, fresh := o.claims("alice"), o.claims("alice")
	exp := time.Now().Add(8*time.Second + time.Duration(n/100)*time.Second).Truncate(time.Second)
	old["exp"] = exp.Unix()
	crowd := s.gatherSaying("/secret-app", "Bearer "+o.sign(old), n, `{"RefreshAccessToken":"`+o.sign(fresh)+`"}`)
	const verified = `drogue_client_user_authentication_access_token{outcome="pass"}`
	before := s.metric(verified)
	start := time.Now()
	said := crowd.speak()
	s.await("a verified token of each socket", func() bool { return s.metric(verified) == before+float64(n) })
	t.Logf("%d sockets sent a token within %v, all were verified after %v", n, said, time.Since(start))
	if !time.Now().Before(exp) {
		t.Fatal("the old tokens have expired before all were refreshed, so that nothing is shown")
	}
	<-time.After(time.Until(exp.Add(2 * time.Second)))
	if open := s.metric(`drogue_connections{protocol="ws",type="integration"}`); open != float64(n) {
		t.Errorf("%v sockets are open behind the old tokens' end, want %d", open, n)
	}
}
