package group

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"canopy/shared/event"
)

// eventOf brings one event of some size.
func (s *stand) eventOf(seq uint64, size int) {
	s.r.take(&delivery{seq: seq, data: bytes.Repeat([]byte{'x'}, size), reply: strconv.FormatUint(seq, 10)}, s.now)
	s.work()
}

// setAside are the events that some member was told of.
func (s *stand) setAside() (seqs []uint64) {
	for _, m := range s.members {
		for _, gap := range s.gaps[m] {
			seqs = append(seqs, gap.Event.Sequence)
		}
	}
	return seqs
}

// harmful has members answer, except those that have an event that harms them: they leave as
// how says, or sleep, and come back a second later.
func (s *stand) harmful(seq uint64, how Departure, sleeps bool, until func() bool) (tries int) {
	s.t.Helper()
	if s.back == nil {
		s.back = map[*Member]time.Duration{}
	}
	memory := failures{of: map[string]map[uint64]remembered{}}
	for end := s.now + 10*time.Minute; !until(); {
		if s.now > end {
			s.t.Fatalf("it goes on for ever: %d tries, suspects %v, handed back %v %v", tries, s.r.suspects, s.nacked, s.later)
		}
		memory.note("", s.known, s.now)
		if again := append(s.nacked, s.later...); len(again) > 0 && s.r.ready > 0 { // JetStream sends it again
			s.nacked, s.later = nil, nil
			for _, n := range again {
				s.r.take(&delivery{seq: n, data: make([]byte, 1000), reply: strconv.FormatUint(n, 10), doubt: memory.against("", n, 0)}, s.now)
			}
			s.work()
		}
		for _, m := range slices.Clone(s.members) {
			has := func(d *delivery) bool { return d.seq == seq && d.gap == nil }
			switch {
			case m.state == left && s.back[m] == 0:
				s.back[m] = s.now + time.Second
				if sleeps {
					tries++
				}
			case m.state == left:
				if s.now >= s.back[m] {
					s.back[m] = forever
					s.join()
					s.work()
				}
			case !slices.ContainsFunc(m.flight.all(), has):
				s.answer(m)
			case !sleeps:
				tries++
				s.r.leave(m, how, s.now)
				s.work()
			}
		}
		s.pass(tickEvery)
	}
	return tries
}

func TestAnEventThatNoMemberTakesIsSetAsideAndHoldsUpNoOther(t *testing.T) {
	for name, c := range map[string]struct {
		how    Departure
		sleeps bool
	}{
		"crashes": {Failed, false}, "is too big": {TooBig, false}, "puts its member to sleep": {Failed, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, 3)
			for seq := uint64(1); seq <= 30; seq++ {
				size := 10
				if seq == 11 {
					size = 1000
				}
				s.eventOf(seq, size)
			}
			began := s.now
			others := func() bool { return len(s.acked) == 29 }
			tries := s.harmful(11, c.how, c.sleeps, others)
			took := s.now - began
			if slices.Contains(s.acked, 11) {
				t.Error("it is acknowledged though nobody was told")
			}
			if c.sleeps { // what was in flight beside it comes after ten seconds
				took -= silentAfter
			}
			if took > time.Second || tries > 3 {
				t.Errorf("the others needed %s and %d tries", took, tries)
			}
			tries += s.harmful(11, c.how, c.sleeps, func() bool { return len(s.acked) == 30 })
			s.want("set aside", s.setAside(), []uint64{11})
			s.want("reported", len(s.aside), 1)
			s.want("tries", tries, 1+s.r.limits.tries) // together with others, then alone
			times := map[uint64]int{}
			for _, m := range s.members {
				for _, seq := range s.got[m] {
					times[seq]++
				}
			}
			repeats := 0
			for seq, n := range times {
				if seq != 11 {
					repeats += n - 1
				}
			}
			if repeats > 10 {
				t.Errorf("%d repeats, and ten were in flight", repeats)
			}
			if gap := s.aside[0]; gap.Bytes != 1000+event.CursorSuffixLen || gap.After.Sequence != 10 || gap.Before.Sequence != 12 {
				t.Errorf("told: %+v", gap)
			}
			if b := s.r.room.bytes.Load(); b != 0 || s.r.bytes != 0 || len(s.r.trials) > 0 {
				t.Errorf("%d bytes are still counted, %d trials go on", b, len(s.r.trials))
			}
		})
	}
}

func TestOnlyClientsThatFailAreHeldAgainstAnEvent(t *testing.T) {
	for name, end := range map[string]func(*stand, *Member){
		"the edge closes it":  func(s *stand, m *Member) { s.r.leave(m, Dismissed, s.now); s.pass(leaveGrace) },
		"it closes normally":  func(s *stand, m *Member) { s.r.leave(m, Gone, s.now) },
		"cut after the close": func(s *stand, m *Member) { s.r.leave(m, Dismissed, s.now); s.r.leave(m, Failed, s.now) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, 1)
			s.events(1, 1)
			for range 20 {
				m := s.members[len(s.members)-1]
				s.join()
				end(s, m)
				s.work()
			}
			s.want("set aside", len(s.aside), 0)
			s.want("suspects", len(s.r.suspects)+len(s.r.trials), 0)
		})
	}
	s := newStand(t, 1)
	s.events(1, 1)
	s.r.stop()
	s.r.leave(s.members[0], Failed, s.now)
	s.work()
	s.want("held against it by an edge that ends", len(s.known), 0)
}

func TestATrialThatAMemberDoesNotLiveToSeeCountsNothing(t *testing.T) {
	s := newStand(t, 1)
	s.events(1, 1)
	for range 20 { // connections that break before anything is answered
		m := s.join()
		s.r.leave(s.members[len(s.members)-2], Failed, s.now)
		s.work()
		s.pass(100 * time.Millisecond)
		s.want("given to one that has answered nothing", s.got[m], []uint64(nil))
	}
	s.want("set aside", len(s.aside), 0)
	s.answer(s.members[len(s.members)-1])
	s.want("given alone", s.got[s.members[len(s.members)-1]], []uint64{1})
}

func TestWhatIsHeldAgainstAnEventGoesWithItToOtherEdges(t *testing.T) {
	memory := failures{of: map[string]map[uint64]remembered{}}
	var set []event.Gap
	trials := 0
	for range 20 { // edges with one member each, who fails on it
		s := newStand(t, 1)
		d := &delivery{seq: 7, stored: 5, data: []byte("{}"), reply: "7", doubt: memory.against("c", 7, 5)}
		s.r.take(d, s.now)
		s.work()
		if d.suspect || d.gap != nil {
			s.answer(s.members[0])
		}
		if set = s.gaps[s.members[0]]; len(set) > 0 {
			break
		}
		trials++
		s.r.leave(s.members[0], Failed, s.now)
		s.work()
		memory.note("c", s.known, s.now)
		s.want("handed back", len(s.nacked)+len(s.later), 1)
	}
	if len(set) != 1 || set[0].Event.Sequence != 7 || trials != 4 {
		t.Errorf("told %v after %d tries, want one together and three alone", set, trials)
	}
	if memory.against("c", 7, 6).suspect {
		t.Error("an event of another stream is suspect")
	}
}

func TestAGapEventThatNoMemberTakesIsGivenUpAndReported(t *testing.T) {
	for _, c := range []struct {
		name  string
		begin func(*stand)
	}{
		{"in the place of an event", func(s *stand) {
			s.r.take(&delivery{seq: 5, data: []byte("{}"), reply: "5", doubt: doubt{suspect: true, failed: 3}}, s.now)
		}},
		{"of the log", func(s *stand) {
			s.r.say(event.Gap{Reason: event.GapRetention, After: event.Cursor{Log: 1, Sequence: 3}, Before: event.Cursor{Log: 1, Sequence: 6}})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStand(t, 2)
			c.begin(s)
			s.work()
			for range 200 {
				for _, m := range slices.Clone(s.members) {
					switch {
					case m.state == left:
					case m.flight.len() > 0:
						s.join()
						s.r.leave(m, Failed, s.now)
						s.work()
					default:
						s.answer(m)
					}
				}
				s.pass(100 * time.Millisecond)
			}
			s.want("given up", len(s.untold), 1)
			if s.r.notice != nil || len(s.r.held) > 0 || s.r.room.bytes.Load() != 0 {
				t.Error("it is still there")
			}
			s.want("acknowledged or told", len(s.acked)+len(s.told), 1)
		})
	}
}

func TestWhatIsRememberedOfEventsIsBounded(t *testing.T) {
	f := failures{of: map[string]map[uint64]remembered{}}
	for seq := range uint64(2 * maxFailuresOfOne) {
		f.note("one", []failure{{Sequence: seq}}, 0)
	}
	f.note("one", []failure{{Sequence: 1 << 40, Failed: 1}}, 0)
	if n := len(f.of["one"]); n != maxFailuresOfOne {
		t.Errorf("%d events of one group are remembered", n)
	}
	if f.against("one", 1<<40, 0).failed != 1 {
		t.Error("what failed alone finds no place beside what is only suspect")
	}
	for n := range 2 * maxFailures / maxFailuresOfOne {
		for seq := range uint64(maxFailuresOfOne) {
			f.note(fmt.Sprint("group ", n), []failure{{Sequence: seq}}, 0)
		}
	}
	f.note("small", []failure{{Sequence: 1, Failed: 2}}, time.Minute)
	sum := 0
	for _, mine := range f.of {
		sum += len(mine)
	}
	if sum != maxFailures || f.all.Load() != maxFailures {
		t.Errorf("%d events are remembered, %d counted", sum, f.all.Load())
	}
	if f.against("small", 1, 0).failed != 2 {
		t.Error("others' events leave no room")
	}
	f.tidy(failureKept)
	if n := f.all.Load(); n != 1 {
		t.Errorf("%d are remembered after an hour", n)
	}
	f.drop("small")
	if f.all.Load() != 0 || len(f.of) != 0 {
		t.Error("something is left")
	}
}
