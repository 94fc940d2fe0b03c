package session

import (
	"testing"
	"time"
)

func TestTheLogNamesOneSocketThatDoesNotReadInTenSeconds(t *testing.T) {
	var u unreads
	now := time.Now()
	for _, c := range []struct {
		after   time.Duration
		unnamed int
		tell    bool
	}{{0, 0, true}, {time.Second, 0, false}, {tellUnread - time.Second, 0, false}, {tellUnread, 2, true}, {tellUnread + 1, 0, false}} {
		if unnamed, tell := u.next(now.Add(c.after)); unnamed != c.unnamed || tell != c.tell {
			t.Errorf("after %s: %d others, told %t; want %d, %t", c.after, unnamed, tell, c.unnamed, c.tell)
		}
	}
}
