package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"canopy/edge/internal/group"
	"canopy/shared/config"
)

// askGroup sends an upgrade request and gives the answer's status, Retry-After and body.
func (s *stack) askGroup(path string, header http.Header) (status int, retry, body string) {
	s.t.Helper()
	c, answer, err := websocket.Dial(s.t.Context(), "ws://"+s.http+path, &websocket.DialOptions{HTTPHeader: header})
	if answer == nil {
		s.t.Fatalf("ask for %.100s: %v", path, err)
	}
	if c != nil {
		s.t.Cleanup(func() { _ = c.CloseNow() })
		return answer.StatusCode, "", ""
	}
	b, _ := io.ReadAll(answer.Body)
	return answer.StatusCode, answer.Header.Get("Retry-After"), string(b)
}

func TestGroupsThatAreRefused(t *testing.T) {
	s := startEdge(t, nil)
	long := strings.Repeat("g", 128)
	for _, c := range []struct {
		name, query, body string
		status            int
	}{
		{"empty", "group_id=", "Bad group_id", 400},
		{"128 bytes", "group_id=" + long, "", 101},
		{"129 bytes", "group_id=" + long + "g", "Bad group_id", 400},
		{"129 bytes in 65 characters", "group_id=g" + url.QueryEscape(strings.Repeat("ä", 64)), "Bad group_id", 400},
		{"with device", "group_id=g&device=d", "exclude each other", 400},
		{"with since", "group_id=g&since=earliest", `"BadRequest"`, 400},
		{"twice", "group_id=g&group_id=h", "Parameter given twice: group_id", 400},
		{"bad encoding", "group_id=%zz", `"BadRequest"`, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			if status, _, body := s.askGroup("/open-app?"+c.query, nil); status != c.status || !strings.Contains(body, c.body) {
				t.Errorf("got %d %s, want %d %s", status, body, c.status, c.body)
			}
		})
	}
}

func TestAnApplicationHasALimitedNumberOfGroupsOnAllEdges(t *testing.T) {
	const limit = 3
	few := func(cfg *config.Config) {
		cfg.Edge.Limits.GroupsPerApplication, cfg.Edge.Limits.NewGroupsPerAddress = limit, 0
	}
	s := startEdge(t, few)
	for n := range limit {
		s.dial(fmt.Sprintf("/open-app?group_id=g%d", n), nil)
	}
	other := s.another(few)
	for _, e := range []*stack{s, other} {
		status, retry, body := e.askGroup("/open-app?group_id=one-more", nil)
		if status != http.StatusTooManyRequests || retry == "" || !strings.Contains(body, `"TooManyRequests"`) {
			t.Errorf("one more group: %d, Retry-After %q, %s", status, retry, body)
		}
		e.dial("/open-app?group_id=g0", nil)                          // is there already
		e.dial("/open-app?group_id=g0", basicAuth("alice", "secret")) // strangers use up only their own
		e.dial("/other-app?group_id=g0", nil)                         // is another application's
	}
}

func TestAnAddressMakesFewNewGroupsWithoutSigningIn(t *testing.T) {
	const limit = 2
	s := startEdge(t, func(cfg *config.Config) { cfg.Edge.Limits.NewGroupsPerAddress = limit })
	for n := range limit {
		s.dial(fmt.Sprintf("/open-app?group_id=g%d", n), nil)
	}
	status, retry, body := s.askGroup("/open-app?group_id=one-more", nil)
	if status != http.StatusTooManyRequests || retry == "" || !strings.Contains(body, `"TooManyRequests"`) {
		t.Errorf("one more group: %d, Retry-After %q, %s", status, retry, body)
	}
	s.dial("/open-app?group_id=g0", nil)                                // is there already
	s.dial("/open-app?group_id=one-more", basicAuth("alice", "secret")) // has signed in
}

func TestADrainRepeatsNothingAndAnotherEdgeGoesOn(t *testing.T) {
	s := startEdge(t, nil)
	other := s.another(nil)
	l := newLedger(t)
	var drained []<-chan error
	for i := range 4 {
		drained = append(drained, l.add(i, s.dial("/open-app?group_id=g", nil)))
	}
	l.add(4, other.dial("/open-app?group_id=g", nil))
	load := s.startPublishers(4, "open-app")
	load.await(t, 500)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	for i, ended := range drained {
		err := <-ended
		var closed websocket.CloseError
		if !errors.As(err, &closed) || closed.Code != websocket.StatusGoingAway {
			t.Errorf("member %d ended with %v, want 1001", i, err)
		}
	}
	load.await(t, 200)
	began := time.Now()
	if repeats := l.expect(load); repeats != 0 {
		t.Errorf("%d events came again", repeats)
	}
	// What the drained edge had and did not give to anybody does not wait for the ack wait.
	if late := time.Since(began); late > 15*time.Second {
		t.Errorf("the last events came after %s: they were not handed back", late)
	}
	if l.share(0) == 0 || l.share(4) == 0 {
		t.Error("an edge had no events: nothing was shown")
	}
}

func TestMetricsOfGroupsTellTheTruth(t *testing.T) {
	s := startEdge(t, nil)
	expect := func(when string, want map[string]float64) {
		t.Helper()
		for name, value := range want {
			until(t, fmt.Sprintf("%s: canopy_edge_group%s is %v", when, name, value), func() bool {
				return s.metric("canopy_edge_group"+name) == value // counted a moment after it happened
			})
		}
	}
	l := newLedger(t)
	reader, stuck := s.dial("/open-app?group_id=g", nil), s.dial("/open-app?group_id=g", nil)
	l.add(0, reader)
	s.awaitGroup("g", "both are members", func(g group.Status) bool { return g.Members == 2 })
	expect("at first", map[string]float64{"s": 1, "_members": 2, "_members_slow": 0, "_in_flight": 0, "_waiting": 0,
		"_bytes": 0, "_oldest_unacknowledged_seconds": 0, "_created_total": 1, "_acknowledged_total": 0})
	for n := range 2 {
		s.publish("open-app", "", n)
	}
	s.awaitGroup("g", "one event is in flight, at a slow member", func(g group.Status) bool {
		return g.Given == 2 && g.InFlight == 1 && g.Slow == 1
	})
	expect("with a stuck member", map[string]float64{"_members": 2, "_members_slow": 1, "_in_flight": 1, "_slow_total": 1,
		"_deliveries_total": 2, "_acknowledged_total": 1, "_repeated_total": 0, "_redelivered_total": 0})
	older := s.metric("canopy_edge_group_oldest_unacknowledged_seconds")
	if older < 0.25 || older > patience.Seconds() || s.metric("canopy_edge_group_bytes") == 0 {
		t.Errorf("the oldest event is %v s old", older)
	}
	if now := s.metric("canopy_edge_group_oldest_unacknowledged_seconds"); now <= older {
		t.Errorf("the oldest event was %v s old, and is %v", older, now)
	}
	_ = stuck.CloseNow()
	l.await(2)
	s.awaitGroup("g", "the other has it", func(g group.Status) bool { return g.Members == 1 && g.InFlight == 0 })
	expect("when it is gone", map[string]float64{"_members": 1, "_members_slow": 0, "_in_flight": 0, "_bytes": 0,
		"_deliveries_total": 3, "_acknowledged_total": 2, "_repeated_total": 1, "_oldest_unacknowledged_seconds": 0})
	_ = reader.CloseNow()
	s.awaitGroup("g", "nobody is there", func(g group.Status) bool { return g.Members == 0 })
	expect("at the end", map[string]float64{"_members": 0, "_in_flight": 0, "_refused_total": 0, "_silent_total": 0, "_gaps_total": 0})
}
