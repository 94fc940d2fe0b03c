package group

import (
	"testing"
	"time"

	"canopy/shared/config"
)

func TestGroupsThatAreMadeAtTheSameTimeKeepToTheLimit(t *testing.T) {
	q, now := newQuota(config.Limits{GroupsPerApplication: 10}), time.Now()
	made := 0
	for range 20 { // all of them have listed 7 groups before the first one was made
		if q.add("app", 7, now) {
			made++
		}
	}
	if made != 3 {
		t.Errorf("%d groups were made beside 7, with a limit of 10", made)
	}
	if !q.add("app", 5, now.Add(countFor)) {
		t.Error("an old number is still believed")
	}
}
