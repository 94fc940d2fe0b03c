package group

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"canopy/edge/internal/guard"
	"canopy/shared/config"
)

// newcomersPer is the time in which somebody may make as many groups as a limit says: so many
// in a row, and then one more whenever its share of that time has passed.
const newcomersPer = time.Hour

// Maker is who has a group made that is not there yet.
type Maker struct {
	User    string // empty for somebody who has not signed in
	Address string
}

// TooManyNew says that somebody has made too many groups.
type TooManyNew struct {
	OfUser     bool          // else of an address
	SignedIn   bool          // so that EDGE__LIMITS__NEW_GROUPS_PER_USER is the limit
	RetryAfter time.Duration // when it may make one more
}

func (e *TooManyNew) Error() string {
	of := "from this address"
	if e.OfUser {
		of = "of this user"
	}
	return fmt.Sprintf("too many new groups %s, the next one in %s", of, e.RetryAfter.Round(time.Second))
}

// isLimit says whether an error of opening a group is a limit's.
func isLimit(err error) bool {
	return errors.Is(err, ErrTooManyGroups) || errors.Is(err, ErrTooManyPublic) || errors.As(err, new(*TooManyNew))
}

// makers bound the groups that each of their makers has made. Nobody shares an account with
// somebody else, except that the users of one address do for groups of public readers:
// otherwise whoever makes many users would have as many groups. Members of an application
// share none. Any goroutine may call its methods.
//
// A new group is what package guard calls a failure.
type makers struct {
	strangers *guard.Guard[makerID] // addresses without signing in; nil is off
	users     *guard.Guard[makerID] // by name, however they sign in
	visitors  *guard.Guard[makerID] // addresses of users who make groups of public readers
}

// makerID is a hash: the names of users may be long.
type makerID [sha256.Size]byte

func newMakers(l config.Limits, now func() time.Time) makers {
	limit := func(n int) *guard.Guard[makerID] {
		if n <= 0 {
			return nil
		}
		return guard.New[makerID](n, newcomersPer/time.Duration(n), now)
	}
	return makers{
		strangers: limit(l.NewGroupsPerAddress), users: limit(l.NewGroupsPerUser), visitors: limit(l.NewGroupsPerUser),
	}
}

// bookings are what one new group counts for.
type bookings []booking

type booking struct {
	in     *guard.Guard[makerID]
	name   string
	ofUser bool
}

func (b booking) id() makerID { return sha256.Sum256([]byte(b.name)) }

// undo takes back that a group was made. Whoever has made no other is forgotten, so that
// those who are refused push out nobody.
func (b bookings) undo() {
	for _, one := range b {
		one.in.Return(one.id())
	}
}

// book counts one more group for whoever makes it. The error is a *TooManyNew if there were
// too many.
func (m *makers) book(key Key, by Maker) (booked bookings, err error) {
	wanted := bookings{{m.users, by.User, true}}
	switch {
	case by.User == "":
		wanted = bookings{{m.strangers, by.Address, false}}
	case key.Public:
		wanted = append(wanted, booking{m.visitors, by.Address, false})
	}
	for _, one := range wanted {
		if one.in == nil {
			continue
		}
		if wait := one.in.Book(one.id()); wait > 0 {
			booked.undo()
			return nil, &TooManyNew{OfUser: one.ofUser, SignedIn: by.User != "", RetryAfter: wait}
		}
		booked = append(booked, one)
	}
	return booked, nil
}
