package session

import (
	"testing"
	"time"

	"canopy/edge/internal/authn"
)

func TestAWallClockThatIsSetIsNoticed(t *testing.T) {
	start := time.Now()
	w := &clockWatch{started: start}
	for i, c := range []struct {
		steady, ahead time.Duration
		want          bool
	}{
		{time.Second, 0, false},
		{2 * time.Second, 50 * time.Millisecond, false}, // slewed
		{3 * time.Second, time.Minute, true},
		{4 * time.Second, time.Minute, false},
		{5 * time.Second, -time.Hour, true},
		{6 * time.Second, -time.Hour, false},
	} {
		if got := w.set(start.Round(0).Add(c.steady+c.ahead), c.steady); got != c.want {
			t.Errorf("look %d: %v, want %v", i, got, c.want)
		}
	}
}

func TestAfterTheClockWasSetEverySessionIsLookedAtInTheNextSecond(t *testing.T) {
	r := newTestRegistry(nil, nil)
	s := r.New("app", authn.Principal{Kind: authn.Token, Expires: time.Now().Add(time.Hour)})
	r.wheel.add(s, 60, 1)
	r.reconsider()
	if n := r.wheel.take(1, make([]*Session, 1)); n != 1 {
		t.Error("it is not looked at")
	}
}
