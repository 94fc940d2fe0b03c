package gateway

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"canopy/edge/internal/group"
	"canopy/shared/config"
	"canopy/shared/natstest"
)

// Whose groups are whose: those of an application's members, and those of whoever reads it
// because it is public.

// public is an applications file of one public application with these members, and of users.
func public(members string, users ...string) string {
	return "applications:\n  open-app: {public: true, members: {" + members + "}}\n" + keys(users...)
}

// keys is the part of an applications file that has users sign in with their name as the key.
func keys(users ...string) string {
	var b strings.Builder
	b.WriteString("api_keys:\n")
	for _, user := range users {
		fmt.Fprintf(&b, "  - {user: %s, sha256: %x}\n", user, sha256.Sum256([]byte(user)))
	}
	return b.String()
}

// as is the header of a user of keys.
func as(user string) http.Header { return basicAuth(user, user) }

// serving has an edge start with an applications file.
func serving(t *testing.T, file string) func(*config.Config) {
	return func(cfg *config.Config) { writeFile(t, cfg.Edge.ApplicationsFile, file) }
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// serve puts another applications file in force.
func (s *stack) serve(file string) {
	s.t.Helper()
	const loaded = `canopy_edge_applications_file_reload{outcome="loaded"}`
	before := s.metricOr0(loaded)
	writeFile(s.t, s.file, file)
	s.await("the new file", func() bool { return s.metricOr0(loaded) == before+1 })
}

// sides are the members of a group and its public readers, who must get all events each.
type sides struct{ members, public *ledger }

func newSides(t *testing.T) sides { return sides{newLedger(t), newLedger(t)} }

// expectEach publishes events, and has each side get each of them once, split evenly.
func (l sides) expectEach(s *stack, events, members, public int) {
	s.t.Helper()
	s.awaitGroup("workers", "all are there", func(g group.Status) bool { return g.Public && g.Members == public })
	s.awaitGroup("workers", "all are there", func(g group.Status) bool { return !g.Public && g.Members == members })
	for n := range events {
		s.publish("open-app", "", n)
	}
	for name, side := range map[string]*ledger{"members": l.members, "public readers": l.public} {
		of := map[*ledger]int{l.members: members, l.public: public}[side]
		side.await(events)
		if distinct, repeats := side.counts(); distinct != events || repeats != 0 {
			s.t.Errorf("%s got %d events and %d repeats, want %d and none", name, distinct, repeats, events)
		}
		for n := range of {
			if got := side.share(n); got < events/of-1 || got > events/of+1 {
				s.t.Errorf("%d of the %s got %d of %d events", n, name, got, events)
			}
		}
	}
}

func TestNobodyWhoPassesByTakesTheEventsOfMembers(t *testing.T) {
	s := startEdge(t, serving(t, public("owner: [read], writer: [write]", "owner", "writer", "stranger")))
	l := newSides(t)
	const path = "/open-app?group_id=workers"
	for n := range 2 {
		l.members.add(n, s.dial(path, as("owner")))
	}
	l.public.add(0, s.dial(path, as("stranger")))
	l.public.add(1, s.dial(path, nil))
	l.public.add(2, s.dial(path, as("writer"))) // who may not read it by name
	l.expectEach(s, 120, 2, 3)
}

func TestAMemberThatIsNoneAnyMoreLeavesItsGroupsAndReadsOn(t *testing.T) {
	const users = "owner leaver"
	s := startEdge(t, serving(t, public("owner: [read], leaver: [read]", strings.Fields(users)...)))
	l := newSides(t)
	const path = "/open-app?group_id=workers"
	leaver, ungrouped := s.dial(path, as("leaver")), s.dial("/open-app", as("leaver"))
	owner := s.dial(path, as("owner"))
	s.awaitGroup("workers", "both are there", func(g group.Status) bool { return g.Members == 2 && !g.Public })
	since := time.Now()
	s.serve(public("owner: [read]", strings.Fields(users)...))
	wantClose(t, leaver, websocket.StatusPolicyViolation, "Access withdrawn")
	if took := time.Since(since); took > 5*time.Second+slack {
		t.Errorf("closed after %v", took)
	}
	l.members.add(0, owner)
	l.public.add(0, s.dial(path, as("leaver")))
	l.public.add(1, s.dial(path, nil))
	l.expectEach(s, 20, 1, 2)
	if r := read(t, ungrouped); r.Data.N != 0 {
		t.Errorf("the socket without a group got %+v", r)
	}
	s.serve(public("owner: [read], leaver: [read]", strings.Fields(users)...))
	l.members.add(1, s.dial(path, as("leaver")))
	s.awaitGroup("workers", "he comes to the members, and stays with the others", func(g group.Status) bool { return !g.Public && g.Members == 2 })
	s.awaitGroup("workers", "he comes to the members, and stays with the others", func(g group.Status) bool { return g.Public && g.Members == 2 })
}

func TestAMemberThatIsNoneAnyMoreWhenItsSocketOpensDoesNotCome(t *testing.T) {
	held, release := make(chan struct{}), make(chan struct{})
	var hold atomic.Bool
	s := startEdge(t, func(cfg *config.Config) {
		serving(t, public("owner: [read]", "owner"))(cfg)
		cfg.NATS.URL = natstest.StartProxy(t, cfg.NATS.URL, func(string) bool {
			if hold.CompareAndSwap(true, false) {
				close(held)
				<-release
			}
			return false
		}).URL()
	})
	hold.Store(true) // what NATS answers about the group
	answer := make(chan error, 1)
	go func() {
		_, err := s.tryDial("/open-app?group_id=workers", as("owner"))
		answer <- err
	}()
	<-held
	s.serve(public("", "owner"))
	close(release)
	if err := <-answer; err == nil || !strings.Contains(err.Error(), "but got 503") {
		t.Errorf("the socket that opened meanwhile: %v, want 503", err)
	}
}

func TestARoleThatIsLostByAFreshTokenEndsTheMembershipOfAGroup(t *testing.T) {
	o := startOIDC(t)
	s := startEdge(t, func(cfg *config.Config) {
		trust(o)(cfg)
		serving(t, public("'role:staff': [read]"))(cfg)
	})
	token := func(roles ...string) string {
		claims := o.claims("carol")
		claims["realm_access"] = map[string]any{"roles": roles}
		return o.sign(claims)
	}
	refresh := func(c *websocket.Conn, token string) { s.write(c, `{"RefreshAccessToken":"`+token+`"}`) }
	const path = "/open-app?group_id=workers&token="
	stays, leaves := s.dial(path+token("staff"), nil), s.dial(path+token("staff", "other"), nil)
	ungrouped := s.dial("/open-app?token="+token("staff"), nil)
	s.awaitGroup("workers", "both are there", func(g group.Status) bool { return g.Members == 2 && !g.Public })
	refresh(stays, token("staff", "another"))
	refresh(ungrouped, token("other"))
	refresh(leaves, token("other"))
	wantClose(t, leaves, websocket.StatusPolicyViolation, "Access withdrawn")
	passer := s.dial(path+token("other"), nil)
	s.awaitGroup("workers", "who comes back is no member", func(g group.Status) bool { return g.Members == 1 && g.Public })
	refresh(passer, token("staff"))
	const verified = `drogue_client_user_authentication_access_token{outcome="pass"}`
	s.await("all tokens", func() bool { return s.metric(verified) == 4+4 })
	for n := range 2 {
		s.publish("open-app", "", n)
		for name, c := range map[string]*websocket.Conn{"who still has the role": stays, "who is in no group": ungrouped, "who has it now": passer} {
			if r := read(t, c); r.Data.N != n {
				t.Errorf("%s got %+v, want event %d", name, r, n)
			}
		}
	}
}

func TestWhoeverDrogueAllowsByNameIsAMember(t *testing.T) {
	d := startCloud(t)
	s := startEdge(t, d.use(4*time.Second, time.Minute))
	l := newSides(t)
	const path = "/open-app?group_id=workers"
	for n, user := range []string{"alice", "bob"} {
		l.members.add(n, s.dial(path, basicAuth(user, drogueKey)))
	}
	for n := range 2 {
		l.public.add(n, s.dial(path, nil))
	}
	l.expectEach(s, 40, 2, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // a few times that access is asked for again
	defer cancel()
	<-ctx.Done()
	if n := s.metric(`canopy_edge_group_members`); n != 4 {
		t.Errorf("%v sockets are in groups after a while, want 4", n)
	}
}

func TestAnOperatorDisconnectsAUserFromGroupsOfBothKinds(t *testing.T) {
	s := startEdge(t, serving(t, public("owner: [read]", "owner", "stranger")))
	const path = "/open-app?group_id=workers"
	member, ungrouped, stranger := s.dial(path, as("owner")), s.dial("/open-app", as("owner")), s.dial(path, as("stranger"))
	for user, sockets := range map[string][]*websocket.Conn{"owner": {member, ungrouped}, "stranger": {stranger}} {
		want := fmt.Sprintf(`{"disconnected":%d}`, len(sockets))
		if status, body := s.askHealth("POST", "/debug/disconnect?user="+user, nil); status != 200 || !strings.Contains(body, want) {
			t.Errorf("disconnect %s: %d %s, want %s", user, status, body, want)
		}
		for _, c := range sockets {
			wantClose(t, c, websocket.StatusPolicyViolation, "Disconnected by the operator")
		}
	}
}
