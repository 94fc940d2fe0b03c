package gateway

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// Access that is withdrawn from many users at once. There are 200, or as many as
// CANOPY_TEST_SOCKETS says.

func TestManyMembersThatLeaveTheApplicationsFileAreClosedWithinFiveSeconds(t *testing.T) {
	s := startEdge(t, nil)
	n := sockets(t)
	var members, keys strings.Builder
	for i := range n {
		fmt.Fprintf(&members, "      user-%d: [read]\n", i)
		fmt.Fprintf(&keys, "  - {user: user-%d, sha256: %x}\n", i, sha256.Sum256(fmt.Appendf(nil, "key-%d", i)))
	}
	file := func(members string) {
		text := "applications:\n  secret-app:\n    members:\n      nobody: [read]\n" + members + "api_keys:\n" + keys.String()
		if err := os.WriteFile(s.file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file(members.String())
	s.await("the new file", func() bool {
		status, _ := s.open("/secret-app?username=user-0&api_key=key-0")
		return status == 101
	})
	crowd := s.gather("/secret-app?username=user-{n}&api_key=key-{n}", "", n)
	since := time.Now()
	file("")
	crowd.want(n, "1008 Access withdrawn", since, 5*time.Second)
}

func TestTheTimeAtWhichAKeyExpiresMayBeMovedWhileItsSocketIsOpen(t *testing.T) {
	s := startEdge(t, nil)
	exp := time.Now().Add(10 * time.Second)
	at := func(expires time.Time) string { return expires.UTC().Format(time.RFC3339Nano) }
	write := func(later, stays, earlier, atOnce time.Time) {
		text := "applications:\n  open-app:\n    public: true\napi_keys:\n"
		for name, expires := range map[string]time.Time{"later": later, "stays": stays, "earlier": earlier, "at-once": atOnce} {
			text += fmt.Sprintf("  - {user: %s, sha256: %x, expires: %s}\n", name, sha256.Sum256([]byte(name)), at(expires))
		}
		if err := os.WriteFile(s.file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	loaded := func(versions float64) func() bool {
		return func() bool { return s.metricOr0(`canopy_edge_applications_file_reload{outcome="loaded"}`) == versions }
	}
	hour := time.Now().Add(time.Hour)
	write(exp, exp, hour, hour)
	s.await("the keys", loaded(1))
	open := func(name string) *websocket.Conn { return s.dial("/open-app?username="+name+"&api_key="+name, nil) }
	later, stays, earlier, atOnce := open("later"), open("stays"), open("earlier"), open("at-once")
	write(hour, exp, exp, time.Now())
	moved := time.Now()
	wantClose(t, atOnce, websocket.StatusPolicyViolation, "Access withdrawn")
	if !loaded(2)() || !time.Now().Before(exp) {
		t.Fatalf("the times were moved after %v, so that nothing is shown", time.Since(moved))
	}
	for _, c := range []*websocket.Conn{stays, earlier} {
		wantClose(t, c, websocket.StatusPolicyViolation, "Access withdrawn")
		if late := time.Since(exp); late < 0 || late > 5*time.Second+slack {
			t.Errorf("closed %v after the key expired", late)
		}
	}
	<-time.After(time.Until(exp.Add(2 * time.Second))) // or its end might still be on its way
	s.publish("open-app", "", 1)
	if r := read(t, later); r.Data.N != 1 {
		t.Errorf("the socket whose key expires later now got %+v", r)
	}
}

// The cache holds answers for as long as it does by default if there are many users.
func TestAccessThatDrogueWithdrawsFromManyUsersEndsWithTheCache(t *testing.T) {
	d := startCloud(t)
	n, cache := sockets(t), 4*time.Second
	if n > 1000 {
		cache = 30 * time.Second
	}
	s := startEdge(t, d.use(cache, time.Minute))
	crowd := s.gather("/secret-app?username=user-{n}&api_key="+drogueKey, "", n)
	d.set(func(d *cloud) { d.allowed = false })
	crowd.want(n, "1008 Access withdrawn", time.Now(), cache)
}

func TestAnAnswerThatDrogueOwesHoldsUpNoOther(t *testing.T) {
	d := startCloud(t)
	const cache = 4 * time.Second
	s := startEdge(t, d.use(cache, time.Minute))
	owed := s.dial("/secret-app?username=slow&api_key="+drogueKey, nil)
	crowd := s.gather("/secret-app?username=user-{n}&api_key="+drogueKey, "", 10)
	d.set(func(d *cloud) { d.allowed, d.slow = false, "slow" })
	crowd.want(10, "1008 Access withdrawn", time.Now(), cache-slack/2)
	s.publish("secret-app", "", 1)
	if r := read(t, owed); r.Data.N != 1 {
		t.Errorf("the socket of which nobody can tell got %+v", r)
	}
}
