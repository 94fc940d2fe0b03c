package group

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"canopy/shared/config"
)

// added is how many of n groups a quota lets through.
func (q *quota) added(t *testing.T, n int, key func(n int) Key, now time.Time, limit error) (made int) {
	t.Helper()
	for i := range n {
		switch counted, err := q.add(0, key(i), now); {
		case counted != nil:
			made++
		case !errors.Is(err, limit):
			t.Fatalf("group %d is refused with %v, want %v", i, err, limit)
		}
	}
	return made
}

// in gives keys of groups of one application.
func in(application string, public bool) func(int) Key {
	return func(n int) Key { return Key{Application: application, Public: public, Name: fmt.Sprint(n)} }
}

func TestGroupsThatAreMadeAtTheSameTimeKeepToTheLimit(t *testing.T) {
	q, now := newQuota(config.Limits{GroupsPerApplication: 10}), time.Now()
	c := &census{at: now, of: map[string]int{}}
	for n := range 7 {
		c.note(in("app", false)(n).Consumer())
	}
	q.learn(0, c)
	if made := q.added(t, 20, in("app", false), now, ErrTooManyGroups); made != 3 {
		t.Errorf("%d groups were made beside 7, with a limit of 10", made)
	}
	if counted, err := q.add(0, in("app", false)(0), now.Add(countFor)); counted != nil || err != nil {
		t.Errorf("an old number is still believed: %v, %v", counted, err)
	}
}

func TestGroupsThatCannotBeMadeTakeNoRoomFromOthers(t *testing.T) {
	h := &Hub{quota: newQuota(config.Limits{GroupsPerApplication: 10})}
	learn := func() *census {
		c := &census{at: time.Now(), most: 20, of: map[string]int{}}
		h.quota.learn(0, c)
		return c
	}
	c := learn()
	key := in("app", true)(1)
	g := &Group{key: key}
	var last func()
	for range 30 {
		undo, err := h.allow(t.Context(), g, Maker{})
		if err != nil {
			t.Fatal(err)
		}
		undo()
		last = undo
	}
	if c.public != 0 || len(c.of) != 0 {
		t.Errorf("%d public groups are counted, and %v", c.public, c.of)
	}
	if c = learn(); h.quota.added(t, 1, in("app", true), c.at, nil) != 1 {
		t.Fatal("there is no room")
	}
	last()
	if c.public != 1 || c.of[key.account()] != 1 {
		t.Errorf("a later census lost a group that it never counted: %d, %v", c.public, c.of)
	}
}

func TestPublicReadersOfAnApplicationUseUpNoRoomOfItsMembers(t *testing.T) {
	q, now := newQuota(config.Limits{GroupsPerApplication: 10}), time.Now()
	q.learn(0, &census{at: now, of: map[string]int{}})
	for _, public := range []bool{true, false} {
		if made := q.added(t, 20, in("app", public), now, ErrTooManyGroups); made != 10 {
			t.Errorf("%d groups were made, public %v, want 10", made, public)
		}
	}
}

func TestPublicReadersOfManyApplicationsHaveHalfOfAStream(t *testing.T) {
	for _, perApplication := range []int{4, 0} {
		q, now := newQuota(config.Limits{GroupsPerApplication: perApplication}), time.Now()
		c := &census{at: now, most: 20, of: map[string]int{}}
		for n := range 3 {
			c.note(in("first", true)(n).Consumer())
			c.note(in("first", false)(n).Consumer())
			c.note(fmt.Sprint("an-operator-s-own-consumer-that-has-a-long-name-", n))
		}
		q.learn(0, c)
		each := func(public bool) func(int) Key {
			return func(n int) Key { return in(fmt.Sprint("app", n), public)(n) }
		}
		if made := q.added(t, 20, each(true), now, ErrTooManyPublic); made != 7 {
			t.Errorf("%d public groups were made beside 3 in a stream of 20, want 7", made)
		}
		if made := q.added(t, 20, each(false), now, nil); made != 20 {
			t.Errorf("%d groups of members were made, want all", made)
		}
	}
}

func TestWhoMakesManyGroupsIsHeldBackAndNobodyElse(t *testing.T) {
	now := time.Now()
	m := newMakers(config.Limits{NewGroupsPerAddress: 2, NewGroupsPerUser: 4}, func() time.Time { return now })
	made := func(public bool, by Maker) (n int, err error) {
		for range 10 {
			if _, err = m.book(Key{Public: public}, by); err != nil {
				return n, err
			}
			n++
		}
		return n, nil
	}
	var refused *TooManyNew
	for _, c := range []struct {
		name     string
		public   bool
		by       Maker
		want     int
		ofUser   bool
		signedIn bool
		wait     time.Duration
	}{
		{"a stranger", true, Maker{"", "here"}, 2, false, false, 30 * time.Minute},
		{"another one", true, Maker{"", "there"}, 2, false, false, 30 * time.Minute},
		{"a public reader of the same address", true, Maker{"one", "here"}, 4, true, true, 15 * time.Minute},
		{"he, somewhere else", true, Maker{"one", "there"}, 0, true, true, 15 * time.Minute},
		{"he, as a member", false, Maker{"one", "there"}, 0, true, true, 15 * time.Minute},
		{"another name, the same address", true, Maker{"two", "here"}, 0, false, true, 15 * time.Minute},
		{"that one as a member", false, Maker{"two", "here"}, 4, true, true, 15 * time.Minute},
		{"a user with the name of an address", false, Maker{"here", "here"}, 4, true, true, 15 * time.Minute},
	} {
		n, err := made(c.public, c.by)
		if !errors.As(err, &refused) || n != c.want || refused.OfUser != c.ofUser || refused.SignedIn != c.signedIn || refused.RetryAfter != c.wait {
			t.Errorf("%s made %d groups, then %+v; want %d", c.name, n, refused, c.want)
		}
	}
	now = now.Add(30 * time.Minute)
	for by, want := range map[Maker]int{{"", "here"}: 1, {"one", "here"}: 2} {
		if n, _ := made(true, by); n != want {
			t.Errorf("%+v made %d groups half an hour later, want %d", by, n, want)
		}
	}
}

func TestManyMakersLockOutNobody(t *testing.T) {
	const many = 150_000
	m := newMakers(config.Limits{NewGroupsPerAddress: 2, NewGroupsPerUser: 2}, time.Now)
	book := func(public bool, user, address string) error {
		_, err := m.book(Key{Public: public}, Maker{user, address})
		return err
	}
	_, _ = book(true, "", "watched"), book(true, "", "watched")
	for n := range many {
		if err := book(true, "", fmt.Sprint("address", n)); err != nil {
			t.Fatalf("the first group of address %d: %v", n, err)
		}
		if n < 10_000 && book(true, "", "watched") == nil {
			t.Fatalf("an address made a third group after %d others made one", n+1)
		}
	}
	for n := range many {
		booked, err := m.book(Key{Public: true}, Maker{fmt.Sprint("user", n), fmt.Sprint("address", n)})
		if err != nil {
			t.Fatalf("the first group of user %d: %v", n, err)
		}
		booked.undo()
	}
	for range 2 {
		if err := errors.Join(book(true, "", "another"), book(false, "another", "here")); err != nil {
			t.Errorf("a newcomer after them: %v", err)
		}
	}
}

func TestAGroupThatWasNotMadeDoesNotCount(t *testing.T) {
	m := newMakers(config.Limits{NewGroupsPerAddress: 1, NewGroupsPerUser: 1}, time.Now)
	for _, by := range []Maker{{"", "here"}, {"one", "here"}} {
		for range 3 {
			booked, err := m.book(Key{Public: true}, by)
			if err != nil {
				t.Fatalf("%+v: %v", by, err)
			}
			booked.undo()
		}
	}
	if _, err := m.book(Key{Public: true}, Maker{"one", "there"}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the user's account is full, and the address's must not be charged for that
		if _, err := m.book(Key{Public: true}, Maker{"one", "here"}); err == nil {
			t.Error("a second group of a user")
		}
	}
	if _, err := m.book(Key{Public: true}, Maker{"two", "here"}); err != nil {
		t.Errorf("another user from an address that was charged for what was refused: %v", err)
	}
}

func TestPublicReadersGroupsLeaveRoomForTheEventsOfMembers(t *testing.T) {
	whole := &room{limit: 10}
	public := &room{limit: 5, within: whole}
	for n := range 6 {
		if ok := public.take(1); ok != (n < 5) {
			t.Errorf("byte %d is taken: %v", n+1, ok)
		}
	}
	if !whole.take(5) || whole.take(1) {
		t.Error("members have another room than what is left")
	}
	public.give(1)
	if !whole.take(1) || public.take(1) || whole.take(1) {
		t.Error("what was given back is not whole's, or more than it has is taken")
	}
	for range 4 {
		public.give(1)
	}
	whole.give(6)
	if p, w := public.bytes.Load(), whole.bytes.Load(); p != 0 || w != 0 {
		t.Errorf("%d and %d bytes are left of none", p, w)
	}
}
