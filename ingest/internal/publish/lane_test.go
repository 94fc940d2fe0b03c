package publish

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// owner remembers what became of its messages.
type owner struct {
	t        *testing.T
	outcomes map[uint64]Outcome
	last     int64 // index stored last
}

func newOwner(t *testing.T) *owner {
	return &owner{t: t, outcomes: make(map[uint64]Outcome), last: -1}
}

func (o *owner) Settled(index uint64, out Outcome) {
	if before, twice := o.outcomes[index]; twice {
		o.t.Fatalf("message %d settled as %d and as %d", index, before, out)
	}
	o.outcomes[index] = out
}

type noted struct{ log []string }

func (n *noted) stored(k int)                  { n.log = append(n.log, fmt.Sprintf("stored %d", k)) }
func (n *noted) duplicate(k int)               { n.log = append(n.log, fmt.Sprintf("duplicate %d", k)) }
func (n *noted) refused(_ *Message, r string)  { n.log = append(n.log, "refused "+r) }
func (n *noted) lost()                         { n.log = append(n.log, "lost") }
func (n *noted) restarted(r string, err error) { n.log = append(n.log, "restarted "+r) }

func push(l *lane, o *owner, from, to int) {
	for i := from; i < to; i++ {
		m := &Message{Owner: o, Index: uint64(i), ID: fmt.Sprint(i), Subject: "in.0.x"}
		m.prepare()
		l.queue.push(m)
	}
}

// indexes of what a todo sends.
func indexes(t todo) string {
	s := ""
	for _, m := range t.messages {
		s += fmt.Sprint(m.Index, " ")
	}
	if t.end {
		s += "end"
	}
	if t.alone {
		s += "alone"
	}
	if t.ping {
		s += "ping"
	}
	return s
}

func expect(t *testing.T, l *lane, now time.Time, want string) todo {
	t.Helper()
	got := l.next(now, nil)
	if indexes(got) != want {
		t.Fatalf("next is %q, want %q", indexes(got), want)
	}
	return got
}

// fresh gives a lane whose stream is known to hold nothing of o from index on.
func freshLane(t *testing.T, o *owner, now time.Time) (*lane, *noted) {
	t.Helper()
	n := &noted{}
	l := newLane(n, 100, 0)
	push(l, o, 0, 1)
	td := expect(t, l, now, "0 alone")
	l.answered(now, td.id, answer{Stream: "S", Seq: 1})
	return l, n
}

var start = time.Unix(1_700_000_000, 0)

func TestLaneEndsABatchWithItsLastMessageAndStartsTheNextAfterTheAnswer(t *testing.T) {
	o := newOwner(t)
	l, _ := freshLane(t, o, start)
	push(l, o, 1, 4)
	td := expect(t, l, start, "1 2 3 end")
	push(l, o, 4, 6)
	expect(t, l, start, "")
	l.answered(start, td.id, answer{Stream: "S", Count: 3, Seq: 4})
	expect(t, l, start, "4 5 end")
	if len(o.outcomes) != 4 {
		t.Errorf("%d settled, want 4", len(o.outcomes))
	}
}

func TestLaneSendsAloneWhatMayBeStoredAlready(t *testing.T) {
	o := newOwner(t)
	l, n := freshLane(t, o, start)
	push(l, o, 1, 6)
	td := expect(t, l, start, "1 2 3 4 5 end")
	l.answered(start, td.id, answer{Type: "ack", Seq: 2})
	l.answered(start, td.id, answer{Type: "gap"})
	l.answered(start, td.id, answer{Stream: "S", Count: 2})
	now := start.Add(time.Second)
	push(l, o, 6, 8)
	td = expect(t, l, now, "3 alone")
	l.answered(now, td.id, answer{Stream: "S", Duplicate: true, Seq: 4})
	td = expect(t, l, now, "4 alone")
	l.answered(now, td.id, answer{Error: &apiError{ErrCode: errCodeInFlight}})
	expect(t, l, now, "")
	now = now.Add(time.Second)
	td = expect(t, l, now, "4 alone")
	l.answered(now, td.id, answer{Stream: "S", Seq: 5})
	td = expect(t, l, now, "5 alone")
	l.answered(now, td.id, answer{Stream: "S", Seq: 6})
	expect(t, l, now, "6 7 end")
	if got := fmt.Sprint(n.log); got != "[stored 1 stored 2 restarted incomplete duplicate 1 stored 1 stored 1]" {
		t.Error(got)
	}
}

func TestLaneSkipsOnlyTheMessageThatCanNeverBeStored(t *testing.T) {
	o := newOwner(t)
	l, _ := freshLane(t, o, start)
	push(l, o, 1, 4)
	td := expect(t, l, start, "1 2 3 end")
	l.answered(start, td.id, answer{Type: "err", Seq: 2, Error: &apiError{ErrCode: errCodeTooLarge}})
	now := start.Add(settleTimeout) // the PubAck behind it is lost
	expect(t, l, now, "")
	for i, want := range []string{"1 alone", "2 alone", "3 alone"} {
		now = now.Add(maxBackoff)
		td = expect(t, l, now, want)
		a := answer{Stream: "S", Seq: uint64(i)}
		if i == 1 {
			a = answer{Error: &apiError{ErrCode: errCodeTooLarge}}
		}
		l.answered(now, td.id, a)
	}
	if got := fmt.Sprint(o.outcomes); got != "map[0:0 1:0 2:1 3:0]" {
		t.Error(got)
	}
}

func TestLaneAsksBeforeItGivesUpAndIgnoresLateAnswers(t *testing.T) {
	o := newOwner(t)
	l, _ := freshLane(t, o, start)
	push(l, o, 1, 3)
	td := expect(t, l, start, "1 2 end")
	if w := expect(t, l, start, ""); !w.until.Equal(start.Add(pingAfter)) {
		t.Errorf("waits until %v", w.until)
	}
	expect(t, l, start.Add(pingAfter), "ping")
	now := start.Add(answerTimeout)
	expect(t, l, now, "")
	l.answered(now, td.id, answer{Stream: "S", Count: 2})
	expect(t, l, now.Add(maxBackoff), "1 alone")
	if len(o.outcomes) != 1 {
		t.Error("a late answer counted")
	}
}

func TestLaneForgetsWhatItHasNotSentAtOnceAndTheRestAfterTheAttempt(t *testing.T) {
	a, b := newOwner(t), newOwner(t)
	l, _ := freshLane(t, a, start)
	push(l, a, 1, 3)
	td := expect(t, l, start, "1 2 end")
	push(l, a, 3, 5)
	push(l, b, 0, 1)
	l.forget(a)
	if len(a.outcomes) != 3 || a.outcomes[3] != Dropped || a.outcomes[4] != Dropped {
		t.Fatalf("after forget: %v", a.outcomes)
	}
	l.answered(start, td.id, answer{Stream: "S", Count: 1})
	if a.outcomes[1] != Stored || a.outcomes[2] != Dropped {
		t.Fatalf("after the attempt: %v", a.outcomes)
	}
	expect(t, l, start.Add(maxBackoff), "0 alone")
	if len(l.fresh) != 0 || len(l.gone) != 0 {
		t.Error("a forgotten owner is remembered")
	}
}

func TestLaneEndsABatchWhoseRestWasForgotten(t *testing.T) {
	a, b := newOwner(t), newOwner(t)
	l, _ := freshLane(t, a, start)
	push(l, b, 0, 1)
	td := expect(t, l, start, "0 alone")
	l.answered(start, td.id, answer{Stream: "S"})
	push(l, a, 1, chunk+1)
	push(l, b, 1, 2)
	td = l.next(start, nil)
	if len(td.messages) != chunk || td.end {
		t.Fatalf("%s", indexes(td))
	}
	l.forget(b)
	end := expect(t, l, start, "end")
	if end.seq != chunk+1 {
		t.Errorf("end has number %d", end.seq)
	}
	l.answered(start, td.id, answer{Stream: "S", Count: chunk})
	expect(t, l, start, "")
	if l.kind != free || l.queue.len() != 0 {
		t.Error("the batch is not over")
	}
}

// modelStream is a model of a server's: what it stores, in order, and batches that may lose
// messages, refuse them, or die.
type modelStream struct {
	stored []*Message
	has    map[string]bool
}

func (s *modelStream) take(m *Message) (dup bool) {
	if s.has[m.ID] {
		return true
	}
	s.has[m.ID] = true
	s.stored = append(s.stored, m)
	return false
}

// FuzzLaneKeepsOrderAndLosesNothing runs a lane against a stream that fails at random.
func FuzzLaneKeepsOrderAndLosesNothing(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Add(uint64(3), uint64(4))
	f.Fuzz(func(t *testing.T, seed1, seed2 uint64) {
		r := rand.New(rand.NewPCG(seed1, seed2))
		owners := []*owner{newOwner(t), newOwner(t), newOwner(t)}
		l := newLane(&noted{}, 100, 0)
		s := &modelStream{has: make(map[string]bool)}
		now := start
		const each = 150
		given := make([]int, len(owners))
		count := 0
		for step := 0; l.queue.len() > 0 || count < each*len(owners); step++ {
			if step > 200_000 {
				t.Fatal("the lane does not come to an end")
			}
			for k, o := range owners {
				for n := r.IntN(4); n > 0 && given[k] < each; n-- {
					m := &Message{Owner: o, Index: uint64(given[k]), ID: fmt.Sprint(k, "/", given[k]), Subject: "in.0.x"}
					m.prepare()
					l.queue.push(m)
					given[k]++
					count++
				}
			}
			simulate(l, s, r, l.next(now, nil), now)
			now = now.Add(time.Duration(r.IntN(300)) * time.Millisecond)
		}
		next := make(map[Owner]uint64)
		for _, m := range s.stored {
			if m.Index != next[m.Owner] {
				t.Fatalf("message %s stored at place %d", m.ID, next[m.Owner])
			}
			next[m.Owner]++
		}
		for k, o := range owners {
			if len(o.outcomes) != each || next[o] != each {
				t.Fatalf("owner %d: %d settled, %d stored, want %d", k, len(o.outcomes), next[o], each)
			}
		}
	})
}

// simulate is the server: it takes what td sends up to a random place, and answers with
// what a server would, or with nothing.
func simulate(l *lane, s *modelStream, r *rand.Rand, td todo, now time.Time) {
	silent := r.IntN(8) == 0
	if td.alone {
		if r.IntN(8) == 0 {
			return // lost on the way
		}
		a := answer{Stream: "S", Duplicate: s.take(td.messages[0])}
		if !silent {
			l.answered(now, td.id, a)
		}
		return
	}
	if len(td.messages) == 0 {
		return
	}
	took := len(td.messages)
	if r.IntN(4) == 0 {
		took = r.IntN(took)
	}
	for _, m := range td.messages[:took] {
		s.take(m)
	}
	total := td.seq - 1 + uint64(took)
	switch {
	case silent:
	case took < len(td.messages):
		l.answered(now, td.id, answer{Type: "gap"})
		l.answered(now, td.id, answer{Stream: "S", Count: total})
	case td.end:
		l.answered(now, td.id, answer{Stream: "S", Count: total})
	default:
		l.answered(now, td.id, answer{Type: "ack", Seq: total})
	}
	if silent && took < len(td.messages) {
		// The next chunk would meet a gap; the model ends the batch here.
		l.fail(now, reasonIncomplete, nil)
	}
}
