package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go/jetstream"

	"canopy/edge/internal/group"
	"canopy/shared/config"
	"canopy/shared/natstest"
)

// crew is some members of groups that read in the background.
type crew struct {
	t   *testing.T
	got chan receipt
	end sync.WaitGroup
}

// receipt is an event that a member has received.
type receipt struct {
	member int
	received
}

func newCrew(t *testing.T) *crew {
	c := &crew{t: t, got: make(chan receipt, 1<<16)}
	t.Cleanup(c.end.Wait)
	return c
}

// add reads from a member until it is closed.
func (c *crew) add(member int, socket *websocket.Conn) {
	socket.SetReadLimit(1 << 20)
	c.end.Add(1)
	go func() {
		defer c.end.Done()
		for {
			_, payload, err := socket.Read(context.Background())
			if err != nil {
				return
			}
			c.got <- receipt{member, parse(c.t, payload)}
		}
	}()
}

// next waits for an event of any member.
func (c *crew) next() receipt {
	c.t.Helper()
	select {
	case r := <-c.got:
		return r
	case <-time.After(patience):
		c.t.Fatalf("no event within %s", patience)
		return receipt{}
	}
}

// publishMany puts n numbered events into the log, many at once, and waits for them.
func (s *stack) publishMany(application, channel string, from, n int) {
	s.t.Helper()
	const atOnce = 1000
	var futures []jetstream.PubAckFuture
	for i := from; i < from+n; i++ {
		s.published++
		body := fmt.Sprintf(`{"specversion":"1.0","id":"%d","type":"t","source":"s","data":{"app":%q,"n":%d}}`, s.published, application, i)
		f, err := s.js.PublishMsgAsync(natstest.Message(shards, application, channel, body))
		if err != nil {
			s.t.Fatalf("publish %d: %v", i, err)
		}
		if futures = append(futures, f); len(futures) == atOnce || i == from+n-1 {
			s.settle(futures)
			futures = futures[:0]
		}
	}
}

func (s *stack) settle(futures []jetstream.PubAckFuture) {
	s.t.Helper()
	for _, f := range futures {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			s.t.Fatalf("publish: %v", err)
		case <-time.After(patience):
			s.t.Fatal("publish: no acknowledgement")
		}
	}
}

// awaitGroup waits until a group is as what says.
func (s *stack) awaitGroup(name, what string, ok func(group.Status) bool) group.Status {
	s.t.Helper()
	var last group.Status
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		var page struct{ Groups []group.Status }
		answer, err := http.Get("http://" + s.admin + "/debug/groups?group=" + url.QueryEscape(name))
		if err != nil {
			s.t.Fatal(err)
		}
		err = json.NewDecoder(answer.Body).Decode(&page)
		_ = answer.Body.Close()
		if err != nil {
			s.t.Fatalf("read /debug/groups: %v", err)
		}
		for _, last = range page.Groups {
			if ok(last) {
				return last
			}
		}
	}
	s.t.Fatalf("waited for group %q: %s; it is %+v", name, what, last)
	return last
}

// awaitMembers waits until so many members of group g have their turn: a client may know a
// moment earlier that it is connected.
func (s *stack) awaitMembers(n int) {
	s.t.Helper()
	s.awaitGroup("g", "all members are there", func(g group.Status) bool { return g.Members == n })
}

func TestTwoMembersOfAGroupAlternate(t *testing.T) {
	s := startEdge(t, nil)
	c := newCrew(t)
	for member := range 2 {
		c.add(member, s.dial("/open-app?group_id=g", nil))
	}
	s.awaitMembers(2)
	first := -1
	for n := range 20 {
		s.publish("open-app", "", n)
		r := c.next()
		if first < 0 {
			first = r.member
		}
		if r.Data.N != n || r.member != (first+n)%2 {
			t.Fatalf("event %d is %+v, want number %d at member %d", n, r, n, (first+n)%2)
		}
	}
}

func TestMembersOfOneEdgeGetEqualShares(t *testing.T) {
	const events = 10_000
	for _, members := range []int{2, 3, 8, 64} {
		t.Run(fmt.Sprint(members), func(t *testing.T) {
			s := startEdge(t, nil)
			c := newCrew(t)
			for member := range members {
				c.add(member, s.dial("/open-app?group_id=g", nil))
			}
			s.awaitMembers(members)
			var share, seen []int
			for try := range 10 {
				// A member that the machine keeps waiting for 250 ms is passed over, rightly.
				slow := s.metric("canopy_edge_group_slow_total")
				s.publishMany("open-app", "", try*events, events)
				share, seen = make([]int, members), make([]int, events)
				for range events {
					r := c.next()
					share[r.member]++
					seen[r.Data.N-try*events]++
				}
				if s.metric("canopy_edge_group_slow_total") == slow {
					break
				}
			}
			for n, times := range seen {
				if times != 1 {
					t.Fatalf("event %d came %d times", n, times)
				}
			}
			for member, n := range share {
				if n < events/members-1 || n > events/members+1 {
					t.Errorf("member %d got %d of %d events, want %d ± 1", member, n, events, events/members)
				}
			}
		})
	}
}

func TestAGroupGoesOnInOrderWhereItStopped(t *testing.T) {
	const events = 50_000
	s := startEdge(t, nil)
	c := newCrew(t)
	away := s.dial("/open-app?group_id=g", nil)
	c.add(0, away)
	s.publish("open-app", "", -1)
	if r := c.next(); r.Data.N != -1 {
		t.Fatalf("the first event is %+v", r)
	}
	s.awaitGroup("g", "its event is acknowledged", func(g group.Status) bool { return g.Given == 1 && g.InFlight == 0 })
	if err := away.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Fatal(err)
	}
	s.publishMany("open-app", "", 0, events)
	c.add(0, s.dial("/open-app?group_id=g", nil))
	for n := range events {
		if r := c.next(); r.Data.N != n {
			t.Fatalf("event %d is %+v", n, r)
		}
	}
}

func TestGroupsThatDifferInAnythingShareNoEvent(t *testing.T) {
	s := startEdge(t, func(cfg *config.Config) { cfg.Edge.Limits.NewGroupsPerAddress = 0 })
	c := newCrew(t)
	long := strings.Repeat("g", 128)
	names := []string{"g", "G", "g.g", "g>", ">", "*", "a b", "=20", "%25", "ä", long, long[:127], "channel", "/"}
	member := 0
	open := func(path string, header http.Header) {
		c.add(member, s.dial(path, header))
		member++
	}
	var want []int // events that the member is to get
	for _, name := range names {
		q := "?group_id=" + strings.NewReplacer("%", "%25", " ", "%20", ">", "%3E", "/", "%2F").Replace(name)
		open("/open-app"+q, nil)
		open("/open-app"+q, basicAuth("alice", "secret"))
		open("/other-app"+q, nil)
		open("/open-app/channel"+q, nil)
		open("/open-app/other"+q, nil)
		want = append(want, 3, 3, 1, 1, 1)
	}
	total := 0
	for _, n := range want {
		total += n
	}
	s.publish("open-app", "", 1)
	s.publish("open-app", "channel", 2)
	s.publish("open-app", "other", 3)
	s.publish("other-app", "", 4)
	got := make([]map[int]int, member)
	for i := range got {
		got[i] = map[int]int{}
	}
	for range total {
		r := c.next()
		got[r.member][r.Data.N]++
	}
	expect := [5]map[int]int{{1: 1, 2: 1, 3: 1}, {1: 1, 2: 1, 3: 1}, {4: 1}, {2: 1}, {3: 1}}
	for i := range got {
		if fmt.Sprint(got[i]) != fmt.Sprint(expect[i%5]) {
			t.Errorf("member %d (name %q) got %v, want %v", i, names[i/5], got[i], expect[i%5])
		}
	}
}
