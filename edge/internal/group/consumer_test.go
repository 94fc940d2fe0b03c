package group

import (
	"testing"
	"time"
)

func TestAGroupAtRiskIsLookedAtSoonButNotAllTheTime(t *testing.T) {
	const now, every = time.Hour, 30 * time.Second
	ago := func(d time.Duration) time.Duration { return now - d }
	for _, c := range []struct {
		name string
		seen sight
		due  bool
	}{
		{"looked at just now", sight{at: ago(time.Second)}, false},
		{"looked at long ago", sight{at: ago(every)}, true},
		{"asked for", sight{}, true},
		{"at risk", sight{at: ago(time.Second), risk: true}, true},
		{"at risk again", sight{at: ago(time.Second), risk: true, risked: ago(riskEvery - 1)}, false},
		{"at risk still", sight{at: ago(time.Second), risk: true, risked: ago(riskEvery)}, true},
	} {
		if due := c.seen.due(now, every); due != c.due {
			t.Errorf("%s: due is %v", c.name, due)
		}
	}
	var s sight
	for _, behind := range []uint64{7, 5, 6} {
		s.endanger(behind)
	}
	if !s.risk || s.safe != 5 {
		t.Errorf("at risk are events behind %d, want 5", s.safe)
	}
}
