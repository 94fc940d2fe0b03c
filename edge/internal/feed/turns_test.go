package feed

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// granted says whose turn x is now, nil if it waits.
func (x *turn) whose() *account {
	select {
	case a := <-x.granted:
		return a
	default:
		return nil
	}
}

func TestAReaderWithAThousandTurnsToTakeStarvesNobody(t *testing.T) {
	all := newAccounts(Allowance{})
	turns := newTurns(all, 1, 1)
	greedy, honest := all.open("greedy"), all.open("honest")
	first := turns.ask(0, greedy)
	if first.whose() != greedy {
		t.Fatal("the first one waits though there is nobody else")
	}
	waiting := map[*turn]bool{}
	for shard := range 1000 {
		waiting[turns.ask(shard, greedy)] = true
	}
	for range 10 {
		own := turns.ask(7, honest)
		turns.end(first)
		if own.whose() != honest {
			t.Fatal("a reader with one turn to take waits behind one with a thousand")
		}
		turns.end(own)
		for first = range waiting {
			if first.whose() == greedy {
				break
			}
			first = nil
		}
		if first == nil {
			t.Fatal("the other one never has its turn")
		}
		delete(waiting, first)
	}
}

func TestATurnThatSeveralReadersWaitForComesWithTheFirstOfThem(t *testing.T) {
	all := newAccounts(Allowance{})
	turns := newTurns(all, 1, 2)
	greedy, honest, late := all.open("greedy"), all.open("honest"), all.open("late")
	all.serve(greedy)
	running := turns.ask(0, greedy)
	other, shared := turns.ask(0, late), turns.ask(0, greedy)
	turns.join(shared, honest)
	all.serve(late)
	turns.end(running)
	if shared.whose() != honest || other.whose() != nil {
		t.Error("the turn is not that of the reader who had his longest ago")
	}
	if elsewhere := turns.ask(1, greedy); elsewhere.whose() != greedy {
		t.Error("another stream waits though two may be read at once")
	} else if third := turns.ask(2, honest); third.whose() != nil {
		t.Error("three are read at once")
	} else {
		turns.end(third) // it gives up
		turns.end(elsewhere)
	}
	turns.end(shared)
	if other.whose() != late {
		t.Error("the last one waits for ever")
	}
	turns.end(other)
	if turns.total != 0 || len(turns.waiting) != 0 || len(turns.under) != 0 {
		t.Errorf("%d turns are left", turns.total+len(turns.waiting))
	}
}

func TestAQuestionThatNobodyWaitsForAnyMoreIsNotPut(t *testing.T) {
	all := newAccounts(Allowance{})
	turns := newTurns(all, 1, 1)
	running := turns.ask(0, all.open("other"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := turns.do(ctx, 0, all.open("reader"), func() error { t.Error("it is put"); return nil })
	if !errors.Is(err, context.Canceled) || len(turns.waiting) != 0 {
		t.Errorf("it ended with %v, %d wait", err, len(turns.waiting))
	}
	turns.end(running)
}

func TestAllReadersTogetherHaveSoManyEventsReadASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perSecond, events = 1000, 250
		all := newAccounts(Allowance{EventsPerSecond: perSecond})
		turns := newTurns(all, 1, 2)
		turns.rest = all.rest
		reader := map[bool]*account{false: all.open("one"), true: all.open("another")}
		began, n := time.Now(), 0
		for ; time.Since(began) < 10*time.Second; n++ {
			a := reader[n%2 == 0]
			x := turns.ask(n, a)
			<-x.granted
			all.charge(a, events*eventCost, time.Now())
			turns.end(x)
		}
		if total := n * events; total < 10*perSecond || total > 11*perSecond+2*events {
			t.Errorf("%d events were read in 10 s, want %d and %d at once", total, 10*perSecond, perSecond)
		}
		if len(turns.waiting) != 0 || turns.total != 0 {
			t.Errorf("%d turns are left", len(turns.waiting)+turns.total)
		}
	})
}

func TestWhatOthersWaitForGoesBeforeAReadersOwnQuestionsByTurns(t *testing.T) {
	all := newAccounts(Allowance{})
	turns := newTurns(all, 1, 1)
	reader, other := all.open("reader"), all.open("other")
	running := turns.ask(0, other)
	own := make([]*turn, 1000)
	for i := range own {
		own[i] = turns.ask(0, reader)
	}
	for _, x := range own[:10] {
		ahead, another := turns.add(&turn{ahead: true}, reader), turns.add(&turn{ahead: true}, reader)
		turns.end(running)
		if ahead.whose() != reader {
			t.Fatal("it waits behind a thousand others of the reader")
		}
		turns.end(ahead)
		if x.whose() != reader || another.whose() != nil {
			t.Fatal("those that go ahead starve the others")
		}
		turns.end(another)
		running = x
	}
}

func TestATurnKnowsEachReaderOnce(t *testing.T) {
	all := newAccounts(Allowance{})
	turns := newTurns(all, 1, 1)
	running := turns.ask(0, all.open("other"))
	who := []*account{all.open("one"), all.open("another")}
	x := turns.ask(0, who[0], who[1], who[0], who[1])
	for n := range 1000 {
		turns.join(x, who[n%2])
	}
	if n := len(x.who); n != 2 {
		t.Errorf("a turn of two readers knows %d", n)
	}
	turns.end(running)
	turns.end(x)
}
