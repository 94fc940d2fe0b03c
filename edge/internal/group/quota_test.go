package group

import (
	"strconv"
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

func TestAddressesThatMadeNoGroupLeaveRoomForOthers(t *testing.T) {
	q, now := newQuota(config.Limits{NewGroupsPerAddress: 2}), time.Now()
	g := &Group{key: Key{Anonymous: true}}
	for n := range maxRemembered + 10 {
		address := strconv.Itoa(n)
		if !q.newcomer(address, now) {
			t.Fatalf("address %d is refused its first group", n)
		}
		q.forgive(g, address)
	}
	for n := range 3 {
		if ok := q.newcomer("another", now); ok != (n < 2) {
			t.Errorf("group %d of an address is allowed: %v, with a limit of 2", n+1, ok)
		}
	}
	q.forgive(g, "another")
	q.forgive(&Group{}, "another") // of a user, who has no account among addresses
	for n := range 2 {
		if ok := q.newcomer("another", now); ok != (n < 1) {
			t.Errorf("group %d after one was forgiven is allowed: %v", n+1, ok)
		}
	}
}
