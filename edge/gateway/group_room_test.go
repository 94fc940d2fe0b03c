package gateway

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"canopy/shared/config"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

// What strangers may have of the room for groups, and that members find theirs.

// makeGroup opens a new group of an application and closes it again. The answer of one that is
// refused is given back.
func (s *stack) makeGroup(application, name string, header http.Header) (status, retry int, body string) {
	s.t.Helper()
	answer, body := s.ask(http.MethodGet, "/"+application+"?group_id="+name, header)
	retry, _ = strconv.Atoi(answer.Header.Get("Retry-After"))
	return answer.StatusCode, retry, body
}

// wantGroups has somebody make n groups of an application, which must be all that he may.
func (s *stack) wantGroups(who, application string, header http.Header, n int, body string) {
	s.t.Helper()
	for i := range n + 1 {
		status, retry, got := s.makeGroup(application, fmt.Sprintf("%s-%d", who, i), header)
		switch {
		case i < n && status != http.StatusSwitchingProtocols:
			s.t.Fatalf("%s is refused group %d of %d: %d %s", who, i+1, n, status, got)
		case i == n && (status != http.StatusTooManyRequests || retry == 0 || !strings.Contains(got, body)):
			s.t.Errorf("%s makes group %d: %d, Retry-After %d, %s; want 429 %s", who, i+1, status, retry, got, body)
		}
	}
}

func from(user, address string) http.Header {
	header := http.Header{}
	if user != "" {
		header = as(user)
	}
	header.Set("X-Forwarded-For", address)
	return header
}

// proxied has an edge believe X-Forwarded-For, with these limits.
func proxied(t *testing.T, file string, limit func(*config.Limits)) func(*config.Config) {
	return func(cfg *config.Config) {
		serving(t, file)(cfg)
		cfg.HTTP.TrustedProxies = []string{"127.0.0.1"}
		limit(&cfg.Edge.Limits)
	}
}

func TestAStrangerWhoSignsInMakesFewGroupsAndTheOwnerAsManyAsBefore(t *testing.T) {
	const tries, most, interval = 1000, 100, 36 * time.Second
	s := startEdge(t, serving(t, public("owner: [read]", "owner", "stranger")))
	began, made := time.Now(), 0
	for n := range tries {
		switch status, retry, body := s.makeGroup("open-app", fmt.Sprint("g", n), as("stranger")); {
		case status == http.StatusSwitchingProtocols:
			made++
		case status != http.StatusTooManyRequests || retry < 1 || retry > 36:
			t.Fatalf("group %d: %d, Retry-After %d, %s", n, status, retry, body)
		}
	}
	if allowed := most + int(time.Since(began)/interval); made < most || made > allowed {
		t.Errorf("a stranger made %d groups, want %d", made, allowed)
	}
	t.Logf("%d of %d groups were made in %s", made, tries, time.Since(began))
	if n := s.metric(`canopy_edge_over_limit_total{limit="new_groups_per_user"}`); n != float64(tries-made) {
		t.Errorf("%v refusals are counted, want %d", n, tries-made)
	}
	if status, _, body := s.makeGroup("open-app", "g0", as("stranger")); status != http.StatusSwitchingProtocols {
		t.Errorf("a group that is there: %d %s", status, body)
	}
	if status, _, body := s.makeGroup("open-app", "g0", as("owner")); status != http.StatusSwitchingProtocols {
		t.Errorf("the owner's first group: %d %s", status, body)
	}
}

func TestManyUsersOfManyAddressesTakeNoRoomThatMembersOfAnApplicationNeed(t *testing.T) {
	const limit, each = 8, 3
	users := []string{"owner", "s0", "s1", "s2", "s3"}
	s := startEdge(t, proxied(t, public("owner: [read]", users...), func(l *config.Limits) {
		l.GroupsPerApplication, l.NewGroupsPerUser = limit, each
	}))
	made := 0
	for n := range 12 {
		user := n % 4
		status, _, body := s.makeGroup("open-app", fmt.Sprint("g", n), from(users[1+user], fmt.Sprint("192.0.2.", user)))
		switch {
		case status == http.StatusSwitchingProtocols:
			made++
		case !strings.Contains(body, "Too many groups of this application"):
			t.Errorf("group %d: %d %s", n, status, body)
		}
	}
	if made != limit {
		t.Errorf("strangers made %d groups, want %d", made, limit)
	}
	if status, _, body := s.makeGroup("open-app", "anonymous", from("", "192.0.2.9")); status != http.StatusTooManyRequests {
		t.Errorf("a stranger who has not signed in counts elsewhere: %d %s", status, body)
	}
	s.wantGroups("owner", "open-app", from("owner", "192.0.2.1"), each, "Too many new groups of this user")
}

func TestTheUsersOfOneAddressMakeNoMoreGroupsThanOne(t *testing.T) {
	const each = 4
	s := startEdge(t, proxied(t, public("owner: [read]", "owner", "s1", "s2"), func(l *config.Limits) {
		l.NewGroupsPerUser, l.NewGroupsPerAddress = each, 2
	}))
	s.wantGroups("s1", "open-app", from("s1", "192.0.2.1"), each, "Too many new groups of this user")
	s.wantGroups("s2", "open-app", from("s2", "192.0.2.1"), 0, "Too many new groups from this address")
	if n := s.metric(`canopy_edge_over_limit_total{limit="new_groups_per_user"}`); n != 2 {
		t.Errorf("%v refusals are counted, want 2", n)
	}
	s.wantGroups("owner", "open-app", from("owner", "192.0.2.1"), each, "Too many new groups of this user")
	s.wantGroups("nobody", "open-app", from("", "192.0.2.1"), 2, "Too many new groups from this address")
	if n := s.metric(`canopy_edge_over_limit_total{limit="new_groups_per_address"}`); n != 1 {
		t.Errorf("%v refusals are counted, want 1", n)
	}
}

func TestAUserMakesNoMoreGroupsByTokenAndByKeyTogether(t *testing.T) {
	o := startOIDC(t)
	s := startEdge(t, func(cfg *config.Config) {
		trust(o)(cfg)
		serving(t, public("owner: [read]", "owner"))(cfg)
		cfg.Edge.Limits.NewGroupsPerUser = 2
	})
	token := http.Header{"Authorization": {"Bearer " + o.sign(o.claims("owner"))}}
	for n, header := range []http.Header{token, as("owner")} {
		if status, _, body := s.makeGroup("open-app", fmt.Sprint("g", n), header); status != http.StatusSwitchingProtocols {
			t.Fatalf("group %d: %d %s", n, status, body)
		}
	}
	for _, header := range []http.Header{token, as("owner")} {
		if status, _, body := s.makeGroup("open-app", "one-more", header); status != http.StatusTooManyRequests {
			t.Errorf("a third group: %d %s, want 429", status, body)
		}
	}
}

// inOneStream gives names of applications that lie in one of the streams.
func inOneStream(n int) (names []string) {
	for i := 0; len(names) < n; i++ {
		if name := fmt.Sprint("app-", i); subject.Shard(name, shards) == 0 {
			names = append(names, name)
		}
	}
	return names
}

func TestPublicReadersOfManyApplicationsTakeNoRoomThatMembersNeedInTheirStream(t *testing.T) {
	const room = 10
	applications := inOneStream(6)
	file := "applications:\n"
	for _, name := range applications {
		file += "  " + name + ": {public: true, members: {owner: [read]}}\n"
	}
	s := startEdge(t, func(cfg *config.Config) {
		serving(t, file+keys("owner"))(cfg)
		cfg.Edge.Limits.NewGroupsPerAddress = 0
	})
	stream := natstest.StreamConfig(0, shards)
	stream.MaxConsumers = room
	if _, err := s.js.UpdateStream(t.Context(), stream); err != nil {
		t.Fatal(err)
	}
	made := 0
	for n := range 2 * room {
		status, _, body := s.makeGroup(applications[n%5], fmt.Sprint("g", n), nil)
		switch {
		case status == http.StatusSwitchingProtocols:
			made++
		case status != http.StatusTooManyRequests || !strings.Contains(body, "Too many groups of public readers"):
			t.Errorf("group %d: %d %s", n, status, body)
		}
	}
	if n := s.metric(`canopy_edge_over_limit_total{limit="public_groups"}`); made != room/2 || n != 2*room-float64(made) {
		t.Errorf("public readers made %d groups in a stream of %d, and %v refusals are counted", made, room, n)
	}
	for n := range room / 2 {
		application := applications[5-n%2] // also the one that no public reader has groups of
		if status, _, body := s.makeGroup(application, fmt.Sprint("g", n), as("owner")); status != http.StatusSwitchingProtocols {
			t.Errorf("group %d of the members: %d %s", n+1, status, body)
		}
	}
}
