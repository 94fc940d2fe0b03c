package guard

import (
	"testing"
	"time"
)

func TestNoMoreFailAtATimeThanAreAllowed(t *testing.T) {
	now := time.Now()
	g := New[string](20, time.Second, func() time.Time { return now })
	book := func(k string, times int) (booked int, wait time.Duration) {
		for range times {
			if wait = g.Book(k); wait == 0 {
				booked++
			}
		}
		return booked, wait
	}
	if n, wait := book("a", 2000); n != 20 || wait != time.Second {
		t.Fatalf("%d were booked, then a wait of %v; want 20 and 1s", n, wait)
	}
	if n, _ := book("b", 1); n != 1 {
		t.Error("another key is held back")
	}
	for range 3 {
		now = now.Add(time.Second)
		if n, _ := book("a", 2000); n != 1 {
			t.Fatalf("%d were booked after a second, want 1", n)
		}
	}
	for range 5 {
		g.Return("a")
	}
	if n, _ := book("a", 2000); n != 5 {
		t.Errorf("%d were booked after 5 were given back", n)
	}
	now = now.Add(time.Hour)
	if n, _ := book("a", 2000); n != 20 {
		t.Errorf("%d were booked after an hour, want 20", n)
	}
}

func TestReturnsOfKeysThatAreForgottenChangeNothing(t *testing.T) {
	now := time.Now()
	g := New[int](1, time.Second, func() time.Time { return now })
	g.Return(1)
	if len(g.recent) != 0 {
		t.Error("a key is remembered that never failed")
	}
	if g.Book(1) != 0 || g.Book(1) == 0 {
		t.Error("a key that never failed may fail once")
	}
}

func TestWhatIsGivenBackIsNotRemembered(t *testing.T) {
	now := time.Now()
	g := New[int](2, time.Second, func() time.Time { return now })
	for n := range 1000 {
		g.Book(n)
		g.Return(n)
	}
	if n := len(g.recent); n != 0 {
		t.Errorf("%d keys are remembered that never failed", n)
	}
	g.Book(0)
	g.Book(0)
	g.Return(0)
	if g.Book(0) != 0 || g.Book(0) == 0 {
		t.Error("a failure is forgotten with another one that was given back")
	}
}

func TestABoundedNumberOfKeysIsRemembered(t *testing.T) {
	now := time.Now()
	g := New[int](2, time.Hour, func() time.Time { return now })
	for range 2 {
		g.Book(-1)
	}
	for n := range 5 * remembered {
		g.Book(n)
		if n == remembered && g.Book(-1) == 0 {
			t.Error("a key was forgotten before the bound")
		}
	}
	if n := len(g.recent) + len(g.older); n > 2*remembered {
		t.Errorf("%d keys are remembered, want %d at most", n, 2*remembered)
	}
}
