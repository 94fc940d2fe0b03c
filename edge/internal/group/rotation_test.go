package group

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"canopy/shared/event"
)

// plainSocket is a socket that takes everything.
type plainSocket struct {
	owed        int64
	ended       int
	unanswering int
}

func (s *plainSocket) Send([]byte, bool) {}
func (s *plainSocket) Owed() int64       { return s.owed }
func (s *plainSocket) Unanswering()      { s.unanswering++ }
func (s *plainSocket) Detached()         { s.ended++ }

// stand is a rotation with its members and a clock, for tests that go step by step.
type stand struct {
	t       *testing.T
	r       rotation
	now     time.Duration
	members []*Member
	got     map[*Member][]uint64
	pings   map[*Member][]uint64
	writes  map[*Member]int
	acked   []uint64
	nacked  []uint64
	renewed []uint64
	lost    []uint64
	told    []event.Gap
	aside   []event.Gap
	untold  []event.Gap
	later   []uint64
	known   []failure
	back    map[*Member]time.Duration // when those that failed come back
	gaps    map[*Member][]event.Gap
}

func newStand(t *testing.T, members int) *stand {
	s := &stand{
		t: t, now: time.Second,
		r:    newRotation(limits{window: 256, group: 1024, share: 1 << 20, tries: 3, ackWait: 20 * time.Second}, &room{limit: 1 << 20}),
		gaps: map[*Member][]event.Gap{},
		got:  map[*Member][]uint64{}, pings: map[*Member][]uint64{}, writes: map[*Member]int{},
	}
	s.r.describe = func(d *delivery) event.Gap { return describeGap("a", 1, d) }
	for range members {
		s.join()
	}
	return s
}

func (s *stand) join() *Member {
	m := &Member{socket: &plainSocket{}, window: 256}
	s.members = append(s.members, m)
	s.r.open(m)
	return m
}

// events brings the events from..to, and lets the rotation work.
func (s *stand) events(from, to uint64) {
	for seq := from; seq <= to; seq++ {
		s.r.take(&delivery{seq: seq, data: []byte("{}"), reply: strconv.FormatUint(seq, 10)}, s.now)
	}
	s.work()
}

func (s *stand) work() {
	for {
		s.r.assign(s.now, false)
		o := s.r.done
		s.r.done = outcome{}
		if o.empty() {
			return
		}
		number := func(list []string) (seqs []uint64) {
			for _, text := range list {
				n, _ := strconv.ParseUint(text, 10, 64)
				seqs = append(seqs, n)
			}
			return seqs
		}
		s.acked = append(s.acked, number(o.acks)...)
		s.nacked = append(s.nacked, number(o.naks)...)
		s.renewed = append(s.renewed, number(o.progress)...)
		s.lost = append(s.lost, o.lost...)
		s.told = append(s.told, o.told...)
		s.aside, s.untold = append(s.aside, o.aside...), append(s.untold, o.untold...)
		s.later, s.known = append(s.later, number(o.later)...), append(s.known, o.failures...)
		for _, w := range o.writes {
			s.writes[w.member]++
			for _, d := range o.events[w.from:w.to] {
				if d.gap != nil {
					s.gaps[w.member] = append(s.gaps[w.member], *d.gap)
				}
				s.got[w.member] = append(s.got[w.member], d.seq)
			}
			if w.ping != 0 {
				s.pings[w.member] = append(s.pings[w.member], w.ping)
			}
		}
		for _, m := range o.silent {
			m.socket.Unanswering()
		}
		for _, m := range o.ended {
			m.socket.Detached()
		}
	}
}

// answer lets m answer its latest Ping.
func (s *stand) answer(m *Member) {
	s.r.pong(m, m.counter, s.now)
	s.work()
}

func (s *stand) pass(d time.Duration) {
	for end := s.now + d; s.now < end; {
		s.now = min(end, s.now+tickEvery)
		s.r.tick(s.now, true)
		s.work()
	}
}

func (s *stand) want(what string, got, want any) {
	s.t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		s.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestSharesAreEqualWhateverThePaceOfEventsAndAnswers(t *testing.T) {
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 2))
		members := 1 + random.IntN(20)
		s := newStand(t, members)
		due := map[*Member]time.Duration{}
		next := uint64(1)
		for range 400 {
			if n := uint64(random.IntN(40)); n > 0 {
				s.events(next, next+n-1)
				next += n
			}
			s.pass(time.Duration(random.IntN(60)) * time.Millisecond)
			for _, m := range s.members {
				if m.pings.len() > 0 && s.now >= due[m] {
					s.answer(m)
					due[m] = s.now + time.Duration(random.IntN(100))*time.Millisecond
				}
			}
		}
		for i, m := range s.members {
			if n, share := len(s.got[m]), int(next-1)/members; n < share-1 || n > share+1 {
				t.Fatalf("seed %d: member %d of %d got %d of %d events, want %d ± 1", seed, i, members, n, next-1, share)
			}
			if !slices.IsSorted(s.got[m]) {
				t.Fatalf("seed %d: member %d got its events out of order", seed, i)
			}
		}
	}
}

func TestEventsAreAcknowledgedByTheAnswerToThePingBehindThem(t *testing.T) {
	s := newStand(t, 1)
	m := s.members[0]
	s.events(1, 1)
	s.want("writes", s.writes[m], 1)
	s.want("Pings", s.pings[m], []uint64{1})
	s.events(2, 3) // nothing hurries while the first Ping is not answered
	s.want("Pings", s.pings[m], []uint64{1})
	s.r.pong(m, 7, s.now) // was never asked
	s.work()
	s.want("acknowledged after a Pong without Ping", s.acked, []uint64{})
	s.answer(m)
	s.want("acknowledged", s.acked, []uint64{1})
	s.pass(askAfter)
	s.want("Pings after a while", s.pings[m], []uint64{1, 2})
	s.answer(m)
	s.r.pong(m, 1, s.now) // again, and too late
	s.work()
	s.want("acknowledged", s.acked, []uint64{1, 2, 3})
	s.want("held", len(s.r.held), 0)
}

func TestABurstIsAskedForAtTheLatestEvery64Events(t *testing.T) {
	s := newStand(t, 1)
	m := s.members[0]
	s.events(1, 256)
	s.want("writes", s.writes[m], 4)
	s.want("Pings", s.pings[m], []uint64{1, 2, 3, 4})
	s.events(257, 300)
	s.want("events beyond the window", len(s.got[m]), 256)
	s.r.pong(m, 2, s.now)
	s.work()
	s.want("acknowledged", len(s.acked), 128)
	s.want("events", len(s.got[m]), 300)
}

func TestTheRotationWaitsForAMemberOnlyUntilItIsSlow(t *testing.T) {
	s := newStand(t, 2)
	a, b := s.members[0], s.members[1]
	a.socket.(*plainSocket).owed = 1
	s.events(1, 1)
	s.want("events while the first one is stalled", len(s.got[a])+len(s.got[b]), 0)
	a.socket.(*plainSocket).owed = 0
	s.work()
	s.want("first", s.got[a], []uint64{1})
	a.socket.(*plainSocket).owed = 1
	s.events(2, 3)
	s.want("second", s.got[b], []uint64{2})
	s.answer(b)
	s.pass(slowAfter)
	s.want("third goes on to the second one", s.got[b], []uint64{2, 3})
	s.want("subscriptions", s.r.subscriptions(), 1)
	a.socket.(*plainSocket).owed = 0
	s.pass(tickEvery)
	s.answer(a)
	s.answer(b)
	s.want("subscriptions when it has answered", s.r.subscriptions(), 2)
	s.events(4, 5)
	s.want("its share again", len(s.got[a]), 2)
}

func TestWhatASilentMemberHadGoesToTheOthersAfterTenSeconds(t *testing.T) {
	s := newStand(t, 2)
	a, b := s.members[0], s.members[1]
	s.events(1, 2)
	s.answer(b)
	s.pass(silentAfter - 2*tickEvery)
	s.want("before", s.got[b], []uint64{2})
	s.pass(3 * tickEvery)
	s.answer(b) // the Ping that asks whether it can be given what another one failed on
	s.want("after", s.got[b], []uint64{2, 1})
	s.want("told", [2]int{a.socket.(*plainSocket).unanswering, a.socket.(*plainSocket).ended}, [2]int{1, 1})
	s.answer(a)
	s.want("acknowledged by nobody yet", s.acked, []uint64{2})
	s.answer(b)
	s.want("acknowledged", s.acked, []uint64{2, 1})
}

func TestAMemberThatLeavesMayStillAcknowledgeWithinTheGrace(t *testing.T) {
	s := newStand(t, 2)
	a, b := s.members[0], s.members[1]
	s.events(1, 4)
	s.r.leave(a, Dismissed, s.now)
	s.work()
	s.want("Pings to the one that leaves", s.pings[a], []uint64{1})
	s.want("told before its answer", a.socket.(*plainSocket).ended, 0)
	s.answer(a)
	s.want("acknowledged", s.acked, []uint64{1, 3})
	s.want("told", a.socket.(*plainSocket).ended, 1)
	s.r.leave(b, Dismissed, s.now)
	s.pass(leaveGrace)
	s.want("handed back in order", s.nacked, []uint64{2, 4})
	s.want("told", b.socket.(*plainSocket).ended, 1)
	s.r.leave(b, Gone, s.now)
	s.work()
	s.want("told again", b.socket.(*plainSocket).ended, 1)
	s.want("subscriptions for a moment", s.r.subscriptions(), 1)
	s.events(5, 5)
	s.want("with no member", s.nacked, []uint64{2, 4})
	s.pass(parkedFor)
	s.want("handed back after a moment", s.nacked, []uint64{2, 4, 5})
	s.want("subscriptions", s.r.subscriptions(), 0)
	s.events(6, 6) // was on its way
	s.want("handed back at once", s.nacked, []uint64{2, 4, 5, 6})
}

func TestLeasesOfWhatIsHeldAreRenewedAndLapsedOnesAreGivenToNobody(t *testing.T) {
	s := newStand(t, 1)
	m := s.members[0]
	m.window = 0 // takes nothing, and owes nothing
	s.events(1, 1)
	s.pass(11 * time.Second)
	s.want("renewed", s.renewed, []uint64{1})
	s.r.tick(s.now, false) // the connection is lost, and perhaps the renewal with it
	s.now += 8 * time.Second
	m.window = 256
	s.work()
	s.want("given after its time", s.got[m], []uint64(nil))
	s.want("held", len(s.r.held), 0)
	s.events(1, 1) // JetStream gives it again
	s.want("given", s.got[m], []uint64{1})
}

func TestAnEventThatTheLogHasForgottenIsGivenHoweverLate(t *testing.T) {
	s := newStand(t, 2)
	m, other := s.members[0], s.members[1]
	m.window, other.window = 1, 1
	s.events(1, 4)
	s.want("is here", s.r.own(4), true)
	s.want("another is here", s.r.own(5), false)
	s.events(4, 4) // it was on its way once more
	s.pass(slowAfter + parkedFor)
	s.want("handed back", s.nacked, []uint64{3})
	s.answer(m)
	s.want("given", s.got[m], []uint64{1, 4})
	s.r.ownBefore(5)
	s.want("is lost", s.lost, []uint64(nil))
	for _, m := range s.members {
		s.r.leave(m, Gone, s.now)
	}
	s.work()
	s.want("is lost", s.lost, []uint64{2, 4})
}

func TestNoticesThatNobodyHasHadBecomeOne(t *testing.T) {
	gap := func(reason string, log event.Log, after, before uint64) event.Gap {
		g := event.Gap{Reason: reason, Before: event.Cursor{Log: log, Sequence: before}}
		if reason == event.GapRetention {
			g.After = event.Cursor{Log: log, Sequence: after}
		}
		return g
	}
	for _, c := range []struct {
		name       string
		a, b, want event.Gap
	}{
		{"a later one", gap(event.GapRetention, 1, 5, 9), gap(event.GapRetention, 1, 20, 30), gap(event.GapRetention, 1, 5, 30)},
		{"an earlier one", gap(event.GapRetention, 1, 20, 30), gap(event.GapRetention, 1, 5, 9), gap(event.GapRetention, 1, 5, 30)},
		{"the log is another one", gap(event.GapRetention, 1, 5, 9), gap(event.GapLog, 2, 0, 3), gap(event.GapLog, 2, 0, 3)},
		{"of the other log", gap(event.GapLog, 2, 0, 3), gap(event.GapRetention, 2, 5, 9), gap(event.GapLog, 2, 0, 9)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStand(t, 1)
			m := s.members[0]
			m.window = 0
			s.r.say(c.a)
			s.r.say(c.b)
			m.window = 256
			s.work()
			s.want("told", s.got[m], []uint64{c.want.Before.Sequence - 1})
			s.want("says", *(*m.flight.front()).gap, c.want)
			s.answer(m)
			s.want("is known", s.told, []event.Gap{c.want})
		})
	}
}

func TestANoticeThatNoMemberIsLeftForIsLost(t *testing.T) {
	s := newStand(t, 1)
	s.r.say(event.Gap{Reason: event.GapRetention, After: event.Cursor{Sequence: 5}, Before: event.Cursor{Sequence: 9}})
	s.work()
	s.r.leave(s.members[0], Gone, s.now)
	s.work()
	s.want("is lost", s.lost, []uint64{6})
}

func TestWhatWasLeftToJetStreamLatelyMayBeLost(t *testing.T) {
	left := func(s *stand) {
		s.r.leave(s.members[0], Gone, s.now)
		s.work()
	}
	for _, c := range []struct {
		name   string
		leaves func(s *stand)
		oldest uint64
		ceded  []uint64
	}{
		{"by a member that left", left, 3, []uint64{1, 2}},
		{"the log still has it", left, 1, nil},
		{"it has come back", func(s *stand) { left(s); s.r.keep = true; s.events(1, 1) }, 3, []uint64{2}},
		{"a moment ago", func(s *stand) { left(s); s.r.ceded.turn(s.now + cededFor) }, 3, []uint64{1, 2}},
		{"long ago", func(s *stand) { left(s); s.r.ceded.turn(s.now + cededFor); s.r.ceded.turn(s.now + 2*cededFor) }, 3, nil},
		{"refused when nobody was there", func(s *stand) {
			s.answer(s.members[0])
			left(s)
			s.r.keep = false
			s.events(5, 6)
		}, 6, []uint64{5}},
		{"refused when there was no room", func(s *stand) {
			s.answer(s.members[0])
			s.r.room.limit = 0
			s.events(5, 6)
		}, 6, []uint64{5}},
		{"its lease had run out", func(s *stand) {
			s.members[0].window = 0
			s.events(5, 6)
			s.now += s.r.limits.ackWait
			s.members[0].window = 256
			s.answer(s.members[0])
		}, 6, []uint64{5}},
		{"of a stream that is gone", func(s *stand) { left(s); s.r.restart() }, 3, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStand(t, 1)
			s.events(1, 4)
			c.leaves(s)
			s.want("may be lost", s.r.ceded.takeBefore(c.oldest), c.ceded)
			s.want("may be lost when asked again", s.r.ceded.takeBefore(c.oldest), []uint64(nil))
		})
	}
}

func TestEventsThatWaitForNobodyAreHandedBackAfterASecond(t *testing.T) {
	s := newStand(t, 1)
	m := s.members[0]
	s.events(1, 1)
	s.pass(slowAfter)
	s.events(2, 3)
	s.want("handed back at once", s.nacked, []uint64(nil))
	s.pass(parkedFor)
	s.want("handed back", s.nacked, []uint64{2, 3})
	s.answer(m)
	s.events(2, 3)
	s.want("given", s.got[m], []uint64{1, 2, 3})
}

func TestAStopHandsBackWhatWaitsAndLetsMembersAcknowledge(t *testing.T) {
	s := newStand(t, 1)
	m := s.members[0]
	s.events(1, 300)
	s.r.stop()
	s.work()
	s.want("handed back", len(s.nacked), 300-256)
	s.want("subscriptions", s.r.subscriptions(), 0)
	s.answer(m)
	s.want("acknowledged", len(s.acked), 256)
	s.events(301, 301)
	s.want("handed back", len(s.nacked), 300-256+1)
}

func TestEventsBeyondTheBudgetAreHandedBackForLater(t *testing.T) {
	s := newStand(t, 1)
	s.r.room = &room{limit: 3}
	s.r.take(&delivery{seq: 1, data: []byte("{}"), reply: "1"}, s.now)
	s.r.take(&delivery{seq: 2, data: []byte("{}"), reply: "2"}, s.now)
	s.want("later", s.r.done.later, []string{"2"})
	s.work()
	s.answer(s.members[0])
	s.want("bytes", s.r.room.bytes.Load(), 0)
}

func TestAnEventThatComesAgainWhileItIsHereIsGivenOnceAndAcknowledgedAsItCameLast(t *testing.T) {
	s := newStand(t, 2)
	s.events(1, 1)
	s.r.take(&delivery{seq: 1, data: []byte("{}"), reply: "1001"}, s.now)
	s.work()
	s.want("given", len(s.got[s.members[0]])+len(s.got[s.members[1]]), 1)
	s.answer(s.members[0])
	s.want("acknowledged", s.acked, []uint64{1001})
	s.want("bytes", s.r.room.bytes.Load(), 0)
}

func TestANewMemberIsTheLastOfTheRound(t *testing.T) {
	s := newStand(t, 3)
	s.events(1, 1)
	m := &Member{socket: &plainSocket{}, window: 256}
	s.r.open(m)
	s.events(2, 4)
	s.events(5, 5)
	s.want("the new one", s.got[m], []uint64{5})
}

func TestAMemberThatReadsNothingLosesItsTurnAlsoIfItOwesNoAnswer(t *testing.T) {
	s := newStand(t, 2)
	a, b := s.members[0], s.members[1]
	a.socket.(*plainSocket).owed = 100 // Pongs to its own Pings
	s.events(1, 20)
	s.pass(slowAfter + 2*tickEvery)
	s.want("events of the other one", len(s.got[b]), 20)
	s.want("subscriptions", s.r.subscriptions(), 1)
	a.socket.(*plainSocket).owed = 0
	s.pass(tickEvery)
	s.want("subscriptions when it reads", s.r.subscriptions(), 2)
	a.socket.(*plainSocket).owed = 100
	s.answer(b)
	s.events(21, 22)
	for range int(silentAfter/time.Second) + 1 {
		s.pass(time.Second)
		s.answer(b)
	}
	s.want("told", [2]int{a.socket.(*plainSocket).unanswering, a.socket.(*plainSocket).ended}, [2]int{1, 1})
	s.want("members", s.r.members, 1)
}

func TestStuckMembersLeaveTheOthersTheirShareOfTheGroup(t *testing.T) {
	const members, stuck = 10, 9
	s := newStand(t, members)
	for _, m := range s.members {
		m.window = firstWindow
	}
	next := uint64(1)
	for range 400 { // those that answer have shown it
		s.events(next, next+9)
		next += 10
		for _, m := range s.members {
			s.answer(m)
		}
	}
	for len(s.r.held) < 1024 { // what JetStream sends without acknowledgements
		s.events(next, next)
		next++
	}
	held := 0
	for _, m := range s.members[:stuck] {
		held += m.flight.len()
	}
	if held > 1024/2 {
		t.Errorf("stuck members hold %d of the group's 1024 events", held)
	}
	healthy := s.members[stuck]
	before := len(s.got[healthy])
	for range 20 {
		s.answer(healthy)
		s.pass(tickEvery)
	}
	if n := len(s.got[healthy]) - before; n < 100 {
		t.Errorf("the healthy member got %d events while the others were stuck", n)
	}
}

func TestAMemberGetsFewEventsBeforeItHasAcknowledgedAny(t *testing.T) {
	s := newStand(t, 1)
	m := s.members[0]
	m.window = firstWindow
	s.events(1, 1000)
	for _, want := range []int{32, 32 + 64, 32 + 64 + 128, 32 + 64 + 128 + 256} {
		s.want("events", len(s.got[m]), want)
		s.answer(m)
	}
}

func TestOneGroupLeavesRoomForOthers(t *testing.T) {
	s := newStand(t, 1)
	s.r.limits.share = 3
	s.members[0].socket.(*plainSocket).owed = 1
	s.events(1, 3)
	s.want("bytes", s.r.room.bytes.Load(), 2)
	s.members[0].socket.(*plainSocket).owed = 0
	s.work()
	s.answer(s.members[0])
	s.events(2, 2)
	s.want("events", s.got[s.members[0]], []uint64{1, 2})
}

func TestASocketThatIsClosedBeforeItOpensIsDetachedWhenItDoes(t *testing.T) {
	for name, then := range map[string]func(*rotation, *Member){
		"it opens":      func(r *rotation, m *Member) { r.open(m) },
		"it never does": func(r *rotation, m *Member) { r.leave(m, Gone, 0) },
	} {
		s := newStand(t, 0)
		m := &Member{socket: &plainSocket{}}
		s.r.leave(m, Dismissed, s.now)
		if n := len(s.r.done.ended); n != 0 {
			t.Errorf("%s: it was detached before, when no close frame could be written", name)
		}
		then(&s.r, m)
		then(&s.r, m) // both may be said again
		if n := len(s.r.done.ended); n != 1 || s.r.members != 0 {
			t.Errorf("%s: it was detached %d times, and there are %d members", name, n, s.r.members)
		}
	}
}
