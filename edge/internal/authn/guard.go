package authn

import (
	"crypto/sha256"
	"net/netip"
	"time"

	"canopy/edge/internal/guard"
)

const (
	// userBurst is how many sign-ins with API keys may fail from one address for one user in
	// a row, userInterval how long it takes until it is one more.
	userBurst    = 20
	userInterval = time.Second
	// addressBurst and addressInterval are the same for an address and all users. There is
	// room for many keys at once that are right, and have yet to be asked about.
	addressBurst    = 200
	addressInterval = 100 * time.Millisecond
	// nameBurst and nameInterval are the same for a user and all addresses.
	nameBurst    = 200
	nameInterval = 100 * time.Millisecond
)

// TooMany says that too many sign-ins failed, from an address or for a user.
type TooMany struct {
	// RetryAfter is how long the client should wait, more than 0.
	RetryAfter time.Duration
	// Everywhere says that it is the user for whom they failed, from many addresses.
	Everywhere bool
}

// Error returns a fixed text.
func (e *TooMany) Error() string {
	if e.Everywhere {
		return "too many failed sign-ins of this user"
	}
	return "too many failed sign-ins from this address"
}

// keyGuard holds back failed sign-ins: guessing must stay slow, and cost nobody else
// anything. Who shares an address with somebody whose key is wrong is another user, and
// signs in all the same. Any goroutine may use it.
//
// Failures for a name count over all addresses, too, but for that only keys that were found
// wrong: nobody can lock a user out by guessing at his name from many places. A right key is
// always looked at, and what keeps guesses from being right is its length.
type keyGuard struct {
	users     *guard.Guard[userAt]
	addresses *guard.Guard[netip.Addr]
	names     *guard.Guard[nameHash]
}

// nameHash stands for a user's name. Whoever is wrong may choose names as long as a header:
// they, and the key that came in the same text, are not kept.
type nameHash [sha256.Size]byte

// userAt is a name that was given at an address.
type userAt struct {
	address netip.Addr
	user    nameHash
}

func newKeyGuard(now func() time.Time) *keyGuard {
	return &keyGuard{
		users:     guard.New[userAt](userBurst, userInterval, now),
		addresses: guard.New[netip.Addr](addressBurst, addressInterval, now),
		names:     guard.New[nameHash](nameBurst, nameInterval, now),
	}
}

// attempt is one sign-in, for one goroutine.
func (g *keyGuard) attempt(from netip.Addr, user string) *attempt {
	return &attempt{guard: g, at: userAt{from, sha256.Sum256([]byte(user))}}
}

// attempt is a sign-in with an API key.
type attempt struct {
	guard  *keyGuard
	at     userAt
	booked bool
	wait   time.Duration // how long it has to wait if book was false
}

// book books a failure before it is one, however often it is called, and is false if there
// were too many.
func (a *attempt) book() bool {
	if a.booked {
		return true
	}
	if a.wait = a.guard.users.Book(a.at); a.wait > 0 {
		return false
	}
	if a.wait = a.guard.addresses.Book(a.at.address); a.wait > 0 {
		a.guard.users.Return(a.at)
		return false
	}
	a.booked = true
	return true
}

// bookName books a failure of the name over all addresses, and returns how long that has to
// wait.
func (a *attempt) bookName() time.Duration { return a.guard.names.Book(a.at.user) }

// giveBack says that the attempt did not fail.
func (a *attempt) giveBack() {
	if a.booked {
		a.booked = false
		a.guard.users.Return(a.at)
		a.guard.addresses.Return(a.at.address)
	}
}
