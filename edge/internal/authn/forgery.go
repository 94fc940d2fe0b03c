package authn

import (
	"context"
	"net/netip"
	"time"

	"canopy/edge/internal/guard"
)

// turnWait is how long a token from an address of many forgeries waits for its turn.
const turnWait = time.Second

// forgeries hold back tokens whose signature is wrong. To find that out is most of what a
// token costs: a few dozen microseconds with RSA, two milliseconds with ES512.
//
// Tokens from an address of which addressBurst forgeries came in a row are verified one at a
// time, for all such addresses together, so that they take one core at most. They are not
// refused: others may share the address, and their tokens, too, have to be verified before
// anybody knows whose they are. What is refused without looking at the signature, such as
// an expired token, is no forgery. Any goroutine may use it.
type forgeries struct {
	addresses *guard.Guard[netip.Addr]
	turn      chan struct{} // holds an element while it is somebody's
}

func newForgeries(now func() time.Time) *forgeries {
	return &forgeries{
		addresses: guard.New[netip.Addr](addressBurst, addressInterval, now),
		turn:      make(chan struct{}, 1),
	}
}

// enter returns when a token from an address may be verified; leave must be called then. The
// error is a *TooMany. Tokens from no address are those of open sockets, which end with the
// first wrong one.
func (f *forgeries) enter(ctx context.Context, from netip.Addr) (leave func(forged bool), err error) {
	if !from.IsValid() {
		return func(bool) {}, nil
	}
	if f.addresses.Book(from) == 0 {
		return func(forged bool) {
			if !forged {
				f.addresses.Return(from)
			}
		}, nil
	}
	timer := time.NewTimer(turnWait)
	defer timer.Stop()
	select {
	case f.turn <- struct{}{}:
		return func(bool) { <-f.turn }, nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil, &TooMany{RetryAfter: turnWait}
}
