package gateway

import (
	"errors"
	"testing"
	"time"

	"github.com/coder/websocket"

	"canopy/edge/internal/group"
	"canopy/shared/config"
)

// memberWindow is how many events a member may have that it has not acknowledged.
const memberWindow = 256

func TestAMemberThatVanishesWithoutAWordIsNoticedAndItsEventsGoToTheOthers(t *testing.T) {
	s := startEdge(t, func(cfg *config.Config) { cfg.Edge.Groups.MemberInFlight = memberWindow })
	k := newLink(t, s.http)
	l := newLedger(t)
	for member := range 3 {
		l.add(member, s.dial("/open-app?group_id=g", nil))
	}
	l.add(3, s.through(k, "/open-app?group_id=g"))
	load := s.startPublishers(4, "open-app")
	load.await(t, 400)
	began := time.Now()
	k.lost.Store(true)
	until(t, "the member is dropped", func() bool { return s.metric("canopy_edge_group_silent_total") == 1 })
	noticed := time.Since(began)
	if noticed > 15*time.Second { // 10 s, and time for a machine that is busy
		t.Errorf("noticed after %s", noticed)
	}
	repeats := l.expect(load)
	t.Logf("noticed after %.1f s, %d events came again of %d", noticed.Seconds(), repeats, load.total.Load())
	if repeats > memberWindow {
		t.Errorf("%d events came again, more than the member had in flight", repeats)
	}
	if k.eaten.Load() == 0 || s.metric("canopy_edge_group_repeated_total") == 0 {
		t.Error("nothing was lost on the way: the fault did not happen")
	}
}

// TestAStuckMemberAmongEightHoldsNobodyUp compares eight members, one of which reads
// nothing, with seven: the others have their equal shares of everything that the stuck one
// does not hold, and go on while it holds it.
func TestAStuckMemberAmongEightHoldsNobodyUp(t *testing.T) {
	const events, healthy = 8_000, 7
	s := startEdge(t, func(cfg *config.Config) { cfg.Edge.Groups.MemberInFlight = memberWindow })
	l := newLedger(t)
	for member := range healthy {
		l.add(member, s.dial("/open-app?group_id=g", nil))
	}
	began := time.Now()
	s.publishMany("open-app", "", 0, events)
	l.await(events)
	seven := time.Since(began)
	before := make([]int, healthy)
	for member := range before {
		before[member] = l.share(member)
	}
	stuck := s.dial("/open-app?group_id=g", nil)
	s.awaitGroup("g", "all are members", func(g group.Status) bool { return g.Members == healthy+1 })
	began = time.Now()
	s.publishMany("open-app", "", events, events)
	held := s.awaitGroup("g", "nothing is under way but what the stuck member holds", func(g group.Status) bool {
		n, _ := l.counts()
		return g.Slow == 1 && g.Waiting == 0 && n+g.InFlight == 2*events && g.InFlight <= memberWindow
	}).InFlight
	eight := time.Since(began)
	t.Logf("%d events: seven members %s, eight with a stuck one %s; it holds %d", events, seven, eight, held)
	for member := range before {
		share := l.share(member) - before[member]
		if want := (events - held) / healthy; share < want-held || share > want+held {
			t.Errorf("member %d got %d events while one was stuck, want about %d", member, share, want)
		}
	}
	l.await(2 * events) // when the stuck one has lost what it holds
	if _, repeats := l.counts(); repeats != 0 {
		t.Errorf("%d events came again to members that read", repeats)
	}
	err := <-l.add(healthy, stuck)
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != websocket.StatusTryAgainLater || closed.Reason != "group member does not answer Pings" {
		t.Errorf("the stuck member ended with %v, want 1013 group member does not answer Pings", err)
	}
	if _, repeats := l.counts(); repeats == 0 || repeats > held {
		t.Errorf("the stuck member read %d events that others had got, want 1 to the %d that it held", repeats, held)
	}
}

func TestASlowMemberThatReadsAgainInTimeTakesPartAgain(t *testing.T) {
	s := startEdge(t, nil)
	l := newLedger(t)
	l.add(0, s.dial("/open-app?group_id=g", nil))
	late := s.dial("/open-app?group_id=g", nil)
	n := 0
	for range 10 {
		s.publish("open-app", "", n)
		n++
	}
	s.awaitGroup("g", "one member is slow", func(g group.Status) bool { return g.Slow == 1 && g.Waiting == 0 })
	l.add(1, late)
	s.awaitGroup("g", "it is slow no more", func(g group.Status) bool { return g.Slow == 0 && g.InFlight == 0 })
	before := [2]int{l.share(0), l.share(1)}
	if before[1] == 0 {
		t.Fatal("the slow member had nothing in flight: the fault did not happen")
	}
	for range 100 {
		s.publish("open-app", "", n)
		n++
	}
	l.await(n)
	if a, b := l.share(0)-before[0], l.share(1)-before[1]; a != b {
		t.Errorf("afterwards they got %d and %d events", a, b)
	}
	if _, repeats := l.counts(); repeats != 0 {
		t.Errorf("%d events came again", repeats)
	}
}
