package authn

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"canopy/shared/config"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// remote knows alice's key from memory, bob's only by asking.
type remote struct{ asked int }

func (r *remote) VerifyKey(_ context.Context, user, key string, ask bool) (Principal, error) {
	switch {
	case user == "alice" && key == "secret":
		return Principal{Kind: Key, User: user}, nil
	case !ask:
		return Principal{}, ErrNotAsked
	}
	r.asked++
	if user == "bob" && key == "secret" {
		return Principal{Kind: Key, User: user}, nil
	}
	return Principal{}, ErrForbidden
}

func TestWrongKeysOfOneAddressAreHeldBackAndNobodyElse(t *testing.T) {
	source := &remote{}
	a, err := New(config.OAuth{}, source, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	a.guard.now = func() time.Time { return now }
	bad, good := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	try := func(from netip.Addr, user, key string) error {
		_, err := a.Authenticate(t.Context(), NewKey(user, key), from)
		return err
	}
	var tooMany *TooMany
	for n := range 20_000 {
		err := try(bad, "alice", "wrong")
		if n < failureBurst && !errors.Is(err, ErrForbidden) || n >= failureBurst && !errors.As(err, &tooMany) {
			t.Fatalf("failure %d: got %v", n, err)
		}
	}
	if tooMany.RetryAfter != failureInterval {
		t.Errorf("retry after %v, want %v", tooMany.RetryAfter, failureInterval)
	}
	if source.asked != failureBurst {
		t.Errorf("%d of 20,000 wrong keys were asked about, want %d", source.asked, failureBurst)
	}
	if err := try(bad, "alice", "secret"); err != nil {
		t.Errorf("a known key from the same address: %v", err)
	}
	if err := try(bad, "bob", "secret"); !errors.As(err, &tooMany) {
		t.Errorf("a key that has to be asked about from the same address: %v", err)
	}
	if err := try(good, "bob", "secret"); err != nil {
		t.Errorf("a key from another address: %v", err)
	}
	now = now.Add(failureInterval)
	if err := try(bad, "bob", "secret"); err != nil {
		t.Errorf("a key after the wait: %v", err)
	}
	if err := try(bad, "alice", "wrong"); !errors.Is(err, ErrForbidden) {
		t.Errorf("one more failure after the wait: %v", err)
	}
	if err := try(bad, "alice", "wrong"); !errors.As(err, &tooMany) {
		t.Errorf("two more failures after the wait: %v", err)
	}
}

func TestGuardRemembersABoundedNumberOfAddresses(t *testing.T) {
	g := guard{now: time.Now}
	first := netip.AddrFrom4([4]byte{192, 0, 2, 1})
	for range failureBurst {
		g.failed(first)
	}
	var b [4]byte
	for n := range uint32(5 * guardAddresses) {
		binary.BigEndian.PutUint32(b[:], n)
		g.failed(netip.AddrFrom4(b))
		if n == guardAddresses && g.wait(first) == 0 {
			t.Error("an address was forgotten before the bound")
		}
	}
	if n := len(g.recent) + len(g.older); n > 2*guardAddresses {
		t.Errorf("%d addresses are remembered, want %d at most", n, 2*guardAddresses)
	}
}
