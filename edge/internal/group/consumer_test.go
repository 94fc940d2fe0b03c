package group

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/shared/event"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

func TestAGroupAtRiskIsLookedAtSoonButNotAllTheTime(t *testing.T) {
	const now, every = time.Hour, 30 * time.Second
	ago := func(d time.Duration) time.Duration { return now - d }
	for _, c := range []struct {
		name  string
		seen  sight
		lossy bool
		due   bool
	}{
		{"looked at just now", sight{at: ago(time.Second)}, false, false},
		{"looked at long ago", sight{at: ago(every)}, false, true},
		{"asked for", sight{}, false, true},
		{"at risk", sight{at: ago(time.Second), risk: ago(time.Second)}, false, true},
		{"at risk again", sight{at: ago(time.Second), risk: ago(time.Second), risked: ago(riskEvery - 1)}, false, false},
		{"at risk still", sight{at: ago(time.Second), risk: ago(time.Second), risked: ago(riskEvery)}, false, true},
		{"of an application that is evicted", sight{at: ago(evictedEvery), evicted: true, risked: ago(0)}, false, true},
		{"of one that is, just now", sight{at: ago(evictedEvery - 1), evicted: true}, false, false},
		{"has losses", sight{at: ago(time.Second)}, true, true},
		{"has losses again", sight{at: ago(time.Second), risked: ago(riskEvery - 1)}, true, false},
	} {
		if due := c.seen.due(now, every, c.lossy); due != c.due {
			t.Errorf("%s: due is %v", c.name, due)
		}
	}
	s := sight{floor: 5, newest: 7}
	s.endanger(now, s.place())
	s.newest = 9
	s.endanger(now, s.place())
	if s.risk != now || s.safe != 7 {
		t.Errorf("at risk are events behind %d, want 7", s.safe)
	}
	for _, seq := range []uint64{8, 9, 11, 10} { // 11 may stand behind one that is gone
		s.sent(seq)
	}
	if s.safe != 10 || s.newest != 11 {
		t.Errorf("at risk are events behind %d, and the newest is %d, want 10 and 11", s.safe, s.newest)
	}
}

func TestAConsumerThatIsMadeAgainBehindWhatTheLogHasForgottenTellsIt(t *testing.T) {
	h, g := streamOfOne(t, 100, func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 10 })
	if _, _, err := h.identify(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	g.seen.floor = 40
	if err := h.makeAgain(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	d := g.rotation.notice
	if d == nil {
		t.Fatal("nobody is told")
	}
	if got, want := (span{d.gap.After.Sequence, d.gap.Before.Sequence}), (span{40, 91}); got != want {
		t.Errorf("told of what is missing between %v, want %v", got, want)
	}
}

func TestAGroupAtRiskWithoutMembersIsLookedAtAndKept(t *testing.T) {
	h, g := streamOfOne(t, 1, func(*jetstream.StreamConfig) {})
	h.groups[g.key] = g
	g.seen.at = h.now()
	if list := h.due(); len(list) > 0 || g.lingers(2*cededFor, true) {
		t.Error("it is looked at or kept although nothing is at risk")
	}
	g.seen.endanger(h.now(), 0)
	if list := h.due(); len(list) != 1 || !g.lingers(2*cededFor, true) {
		t.Error("it is not looked at, or not kept")
	}
	if g.dropDoubts(); g.lingers(2*cededFor, true) {
		t.Error("it is kept although its consumer is gone")
	}
}

func TestOfALaterRiskAnAnswerSaysNothing(t *testing.T) {
	h, g := streamOfOne(t, 100, func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 10 })
	info := &jetstream.ConsumerInfo{AckFloor: jetstream.SequenceInfo{Stream: 60}} // 40 events ago
	asked := h.now()
	g.seen.newest = 95
	g.seen.endanger(asked+1, g.seen.place())
	if err := h.see(t.Context(), g, info, asked, false); err != nil || g.rotation.notice != nil || g.seen.risk == 0 {
		t.Errorf("%v; it tells of a gap: %v; it is at risk still: %v", err, g.rotation.notice != nil, g.seen.risk > 0)
	}
	expectTold(t, h, g, span{60, 91})
	if g.seen.risk != 0 {
		t.Error("it is at risk after the members were told")
	}
}

// streamOfOne has one application, and a hub and a group that no member has joined.
func streamOfOne(t *testing.T, events int, change func(*jetstream.StreamConfig)) (*Hub, *Group) {
	server := natstest.Start(t)
	nc := server.Connect()
	js := natstest.Streams(t, nc, 1)
	cfg := natstest.StreamConfig(0, 1)
	change(&cfg)
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for range events {
		if _, err := js.Publish(t.Context(), subject.In(0, "a"), []byte(`{"a":0}`)); err != nil {
			t.Fatal(err)
		}
	}
	h, err := New(Config{}, nc, nc, oneStream{}, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	key := Key{Application: "a", Name: "g"}
	g := newGroup(h, key, key.subjects(1), h.readers[0])
	g.logID.Store(1)
	return h, g
}

type oneStream struct{}

func (oneStream) Shards() (int, error) { return 1, nil }
func (oneStream) Log(int) event.Log    { return 1 }

// expectTold looks at a group after the claims' time, and compares what it is told.
func expectTold(t *testing.T, h *Hub, g *Group, want span) {
	t.Helper()
	h.start = h.start.Add(-claimTime)
	info := &jetstream.ConsumerInfo{AckFloor: jetstream.SequenceInfo{Stream: 60}}
	if err := h.see(t.Context(), g, info, h.now(), false); err != nil {
		t.Fatal(err)
	}
	got := span{}
	if d := g.rotation.notice; d != nil {
		got = span{d.gap.After.Sequence, d.gap.Before.Sequence}
		g.rotation.notice = nil // a member takes it
	}
	if got != want {
		t.Errorf("told of what is missing between %v, want %v", got, want)
	}
}

func TestLossesAreToldOnceAndNotForgottenBefore(t *testing.T) {
	h, g := streamOfOne(t, 100, func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 10 })
	name := g.subject.name()
	expectTold(t, h, g, span{})
	h.losses.add(name, 50, 1, h.now())
	expectTold(t, h, g, span{49, 91})
	expectTold(t, h, g, span{})       // the member has not answered yet
	h.losses.claim(name, 20, h.now()) // an edge has it
	h.losses.add(name, 20, 1, h.now())
	expectTold(t, h, g, span{})
	h.losses.lose(name, 20, 1, h.now())
	expectTold(t, h, g, span{19, 91})
	g.told(event.Gap{After: event.Cursor{Log: 1, Sequence: 19}, Before: event.Cursor{Log: 1, Sequence: 91}})
	if n := h.losses.first(name, 1, h.now()+claimTime); n != 0 {
		t.Errorf("event %d counts as lost after a member knows", n)
	}
}

func TestALossThatTheLeaderStillHasIsToldWhenItHasForgottenIt(t *testing.T) {
	h, g := streamOfOne(t, 100, func(c *jetstream.StreamConfig) {})
	h.losses.add(g.subject.name(), 1, 1, h.now())
	expectTold(t, h, g, span{})
	stream, err := h.js.Stream(t.Context(), g.subject.stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	expectTold(t, h, g, span{0, 2})
}

func TestLossesOfAnotherLogAndBeyondTheBoundCountForNothing(t *testing.T) {
	l := losses{of: map[string]map[uint64]loss{}}
	l.add("a", 1, 7, 0)
	if n := l.first("a", 8, time.Hour); n != 0 {
		t.Errorf("event %d of another log counts", n)
	}
	l.add("a", 3, 0, 0)
	if n := l.first("a", 8, time.Hour); n != 3 {
		t.Errorf("event %d counts, want 3, whose log was not known", n)
	}
	l.drop("a")
	l.claim("c", 1, 0)
	l.tidy(claimKept - 1)
	l.add("c", 1, 7, claimKept)
	if n := l.first("c", 7, time.Hour); n != 0 {
		t.Errorf("event %d counts, which an edge has", n)
	}
	l.tidy(claimKept)
	if l.all != 0 {
		t.Errorf("%d are remembered", l.all)
	}
	for i := range uint64(2 * maxLossesOfOne) {
		l.add("a", i+1, 7, 0)
		l.add("b", i+1, 7, 0)
	}
	if n := len(l.of["a"]); n != maxLossesOfOne || l.all != 2*maxLossesOfOne {
		t.Errorf("%d of one consumer and %d of all are remembered", n, l.all)
	}
	l.remove("a", 0, maxLossesOfOne+1)
	l.drop("b")
	if len(l.of) != 0 || l.all != 0 {
		t.Errorf("%d are left", l.all)
	}
}

func TestWhatPublicReadersLoseLeavesRoomForWhatMembersLose(t *testing.T) {
	l := losses{of: map[string]map[uint64]loss{}}
	name := func(public bool, n int) string {
		return Key{Application: "a", Public: public, Name: fmt.Sprint(n)}.subjects(1).name()
	}
	const each = 1024
	for n := range 2 * maxLosses / each { // groups that were left with events in flight, and then the log forgot them
		for seq := range uint64(each) {
			l.add(name(true, n), seq+1, 7, 0)
		}
	}
	if l.all != maxLosses/publicShare {
		t.Errorf("%d events are remembered, want %d", l.all, maxLosses/publicShare)
	}
	for n := range 8 {
		l.add(name(false, n), 1, 7, 0)
		if first := l.first(name(false, n), 7, time.Hour); first != 1 {
			t.Errorf("what group %d of the members has lost is not known", n)
		}
	}
	l.remove(name(true, 0), 0, each+1)
	l.claim(name(true, 1), 1, 0)
	l.tidy(claimKept)
	if want := maxLosses/publicShare - each - 1; l.public != want || l.all != want+8 {
		t.Errorf("%d and %d are remembered, want %d and 8 more", l.public, l.all, want)
	}
	for n := range 2 * maxLosses / each {
		l.drop(name(true, n))
	}
	if l.public != 0 || l.all != 8 {
		t.Errorf("%d and %d are remembered after the public readers' groups are gone", l.public, l.all)
	}
}
