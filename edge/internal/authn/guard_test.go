package authn

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"canopy/shared/config"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// remote knows one of alice's keys from memory, the other one and bob's only by asking.
type remote struct{ asked int }

func (r *remote) VerifyKey(_ context.Context, user, key string, admit func() bool) (Principal, error) {
	switch {
	case user == "alice" && key == "secret":
		return Principal{Kind: Key, User: user}, nil
	case !admit():
		return Principal{}, ErrNotAsked
	}
	r.asked++
	if user == "bob" && key == "secret" || user == "alice" && key == "new" {
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
	a.guard = newKeyGuard(func() time.Time { return now })
	bad, good := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	try := func(from netip.Addr, user, key string) error {
		_, err := a.Authenticate(t.Context(), NewKey(user, key), from)
		return err
	}
	var tooMany *TooMany
	for n := range 20_000 {
		err := try(bad, "alice", "wrong")
		if n < userBurst && !errors.Is(err, ErrForbidden) || n >= userBurst && !errors.As(err, &tooMany) {
			t.Fatalf("failure %d: got %v", n, err)
		}
	}
	if tooMany.RetryAfter != userInterval {
		t.Errorf("retry after %v, want %v", tooMany.RetryAfter, userInterval)
	}
	if source.asked != userBurst {
		t.Errorf("%d of 20,000 wrong keys were asked about, want %d", source.asked, userBurst)
	}
	if err := try(bad, "alice", "secret"); err != nil {
		t.Errorf("a known key from the same address: %v", err)
	}
	if err := try(bad, "alice", "new"); !errors.As(err, &tooMany) {
		t.Errorf("a key that has to be asked about from the same address: %v", err)
	}
	if err := try(good, "alice", "new"); err != nil {
		t.Errorf("a key from another address: %v", err)
	}
	now = now.Add(userInterval)
	if err := try(bad, "alice", "new"); err != nil {
		t.Errorf("a key after the wait: %v", err)
	}
	if err := try(bad, "alice", "wrong"); !errors.Is(err, ErrForbidden) {
		t.Errorf("one more failure after the wait: %v", err)
	}
	if err := try(bad, "alice", "wrong"); !errors.As(err, &tooMany) {
		t.Errorf("two more failures after the wait: %v", err)
	}
}

// slow knows no key, and says so when it is let.
type slow struct {
	asked atomic.Int64
	pass  chan struct{}
	fails error
}

func (s *slow) VerifyKey(ctx context.Context, user, _ string, admit func() bool) (Principal, error) {
	if !admit() {
		return Principal{}, ErrNotAsked
	}
	s.asked.Add(1)
	select {
	case <-s.pass:
	case <-ctx.Done():
		return Principal{}, ctx.Err()
	}
	return Principal{Kind: Key, User: user}, s.fails
}

func TestWrongKeysThatAreAskedAboutAtATimeAreHeldBack(t *testing.T) {
	for name, c := range map[string]struct {
		user  func(n int) string
		fails error
		burst int
		after int // how many more are asked about after a second, at most
	}{
		"one user":       {func(int) string { return "alice" }, ErrForbidden, userBurst, 1},
		"many users":     {strconv.Itoa, ErrForbidden, addressBurst, int(time.Second / addressInterval)},
		"right keys":     {func(int) string { return "alice" }, nil, userBurst, userBurst},
		"nobody answers": {func(int) string { return "alice" }, errors.New("away"), userBurst, userBurst},
	} {
		t.Run(name, func(t *testing.T) {
			source := &slow{fails: c.fails}
			a, err := New(config.OAuth{}, source, zap.NewNop(), prometheus.NewRegistry())
			if err != nil {
				t.Fatal(err)
			}
			now := time.Now()
			a.guard = newKeyGuard(func() time.Time { return now })
			from := netip.MustParseAddr("192.0.2.1")
			want := c.burst
			for range 3 {
				source.pass = make(chan struct{})
				var all sync.WaitGroup
				var held atomic.Int64
				const keys = 2000
				for n := range keys {
					all.Go(func() {
						if _, err := a.Authenticate(t.Context(), NewKey(c.user(n), "key"), from); errors.As(err, new(*TooMany)) {
							if held.Add(1) == int64(keys-want) {
								close(source.pass) // nobody was answered while others asked
							}
						}
					})
				}
				all.Wait()
				if got := source.asked.Swap(0); got != int64(want) {
					t.Fatalf("%d keys were asked about, want %d", got, want)
				}
				now, want = now.Add(time.Second), c.after
			}
		})
	}
}

func TestWhoLeavesBeforeAWrongKeyIsAnsweredHasTriedAllTheSame(t *testing.T) {
	source := &slow{}
	a, err := New(config.OAuth{}, source, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10 * userBurst {
		_, _ = a.Authenticate(ctx, NewKey("alice", "wrong"), netip.MustParseAddr("192.0.2.1"))
	}
	if n := source.asked.Load(); n < userBurst || n > userBurst+5 {
		t.Errorf("%d keys were asked about, want %d", n, userBurst)
	}
}

func TestWrongKeysOfOneUserHoldBackNoOtherOfTheSameAddress(t *testing.T) {
	source := &remote{}
	a, err := New(config.OAuth{}, source, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	from := netip.MustParseAddr("192.0.2.1")
	for range 10 * userBurst {
		_, _ = a.Authenticate(t.Context(), NewKey("mallory", "wrong"), from)
	}
	if _, err := a.Authenticate(t.Context(), NewKey("mallory", "wrong"), from); !errors.As(err, new(*TooMany)) {
		t.Errorf("the one: %v, want TooMany", err)
	}
	if _, err := a.Authenticate(t.Context(), NewKey("bob", "secret"), from); err != nil {
		t.Errorf("the other: %v", err)
	}
}

func TestWrongKeysOfOneUserFromManyAddressesAreHeldBackAndNeverARightOne(t *testing.T) {
	source := &remote{}
	a, err := New(config.OAuth{}, source, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	a.guard = newKeyGuard(func() time.Time { return now })
	try := func(n int, user, key string) error {
		_, err := a.Authenticate(t.Context(), NewKey(user, key), netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}))
		return err
	}
	var tooMany *TooMany
	for n := range 20_000 {
		err := try(n, "alice", "wrong")
		if n < nameBurst && !errors.Is(err, ErrForbidden) || n >= nameBurst && (!errors.As(err, &tooMany) || !tooMany.Everywhere) {
			t.Fatalf("failure %d: got %v", n, err)
		}
	}
	if tooMany.RetryAfter != nameInterval {
		t.Errorf("retry after %v, want %v", tooMany.RetryAfter, nameInterval)
	}
	for n, key := range []string{"secret", "new"} {
		if err := try(30_000+n, "alice", key); err != nil {
			t.Errorf("a right key from an address of its own, %d: %v", n, err)
		}
	}
	if err := try(30_002, "mallory", "wrong"); !errors.Is(err, ErrForbidden) {
		t.Errorf("another user: %v", err)
	}
	now = now.Add(nameInterval)
	if err := try(30_003, "alice", "wrong"); !errors.Is(err, ErrForbidden) {
		t.Errorf("one more failure after the wait: %v", err)
	}
	if err := try(30_004, "alice", "wrong"); !errors.As(err, &tooMany) {
		t.Errorf("two more failures after the wait: %v", err)
	}
}

func TestWrongKeysOfLongUserNamesHoldNoMemory(t *testing.T) {
	const attempts, length, most = 20_000, userBytes - 8, 8 << 20
	a, err := New(config.OAuth{}, &remote{}, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before, refused := heap(), 0
	for n := range attempts {
		// One half from an address each, the other half from one that has no attempt left.
		from := netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
		if n%2 == 0 {
			from = netip.MustParseAddr("192.0.2.1")
		}
		user := strconv.Itoa(n) + strings.Repeat("x", length)
		if _, err := a.Authenticate(t.Context(), NewKey(user, "wrong"), from); errors.As(err, new(*TooMany)) {
			refused++
		} else if !errors.Is(err, ErrForbidden) {
			t.Fatalf("attempt %d: %v", n, err)
		}
	}
	if refused < attempts/4 {
		t.Fatalf("%d attempts met a limit, want %d at least", refused, attempts/4)
	}
	if held := heap() - before; held > most {
		t.Errorf("%d attempts hold %d bytes, want %d at most", attempts, held, most)
	}
	runtime.KeepAlive(a)
}
