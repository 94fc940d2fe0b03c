package gateway

import (
	"testing"
	"time"
)

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
