package gateway

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"canopy/shared/config"
)

// entrance is a door with a clock.
type entrance struct {
	*door
	t       *testing.T
	present time.Time
	gone    map[string]bool // visitors that were cut

	descriptors int
}

func newEntrance(t *testing.T, most, each int) *entrance {
	counts := newLimits(config.Limits{}, prometheus.NewRegistry())
	e := &entrance{
		door: newDoor(config.Limits{HalfOpen: most, HalfOpenPerAddress: each}, counts),
		t:    t, present: time.Unix(1, 0), gone: make(map[string]bool), descriptors: 1000,
	}
	e.now = func() time.Time { return e.present }
	return e
}

// visit has a visitor come from host n of a network, 0 for nobody in particular. It is nil
// if there was no place.
func (e *entrance) visit(n int, name string) *visitor {
	v := &visitor{cut: func() { e.gone[name] = true }}
	if !e.enter(v, host(n), e.descriptors) {
		return nil
	}
	return v
}

func host(n int) netip.Prefix {
	if n == 0 {
		return netip.Prefix{}
	}
	return network(netip.AddrFrom4([4]byte{192, 0, byte(n >> 8), byte(n)}))
}

// crowd has many come from a host, until there is no place, and says how many got in.
func (e *entrance) crowd(n, many int) (in int) {
	for i := range many {
		if e.visit(n, fmt.Sprintf("%d of %d", i, n)) != nil {
			in++
		}
	}
	return in
}

func TestAnAddressHasItsPlacesAndNoMore(t *testing.T) {
	e := newEntrance(t, 100, 3)
	if in := e.crowd(1, 10); in != 3 || len(e.gone) != 0 {
		t.Errorf("%d of a rush are in and %v are cut, want the first 3 and none", in, e.gone)
	}
	if e.visit(2, "another address") == nil {
		t.Error("another address has no place")
	}
	if in := e.crowd(0, 20); in != 20 {
		t.Errorf("%d of a proxy's clients are in, want all", in)
	}
}

func TestWhoKeepsTheEdgeWaitingGoesForOthersOfItsAddress(t *testing.T) {
	e := newEntrance(t, 100, 3)
	first := e.visit(1, "first")
	e.visit(1, "second")
	third := e.visit(1, "third")
	e.present = e.present.Add(stale)
	e.served(first)
	e.awaited(third) // does nothing: it is waited for already
	if e.visit(1, "fourth") == nil || !e.gone["second"] || len(e.gone) != 1 {
		t.Errorf("%v are cut, want the second: the first waits for the edge", e.gone)
	}
	e.awaited(first) // and has its time from now on
	e.visit(1, "fifth")
	if !e.gone["third"] || e.visit(1, "sixth") != nil {
		t.Errorf("%v are cut, want the third, and no more", e.gone)
	}
}

func TestRequestsThatTakeLongHoldHalfOfAnAddressesPlaces(t *testing.T) {
	e := newEntrance(t, 100, 4)
	visitors := make(map[string]*visitor)
	for _, name := range []string{"first", "second", "third"} {
		visitors[name] = e.visit(1, name)
		e.requested(visitors[name])
		e.present = e.present.Add(time.Millisecond)
	}
	turn := e.visit(1, "waits for its turn")
	e.served(turn)
	if e.visit(1, "a rush") != nil || len(e.gone) != 0 {
		t.Errorf("%v are cut for one more before their time", e.gone)
	}
	e.present = e.present.Add(stale)
	fourth := e.visit(1, "fourth")
	if fourth == nil || !e.gone["first"] || len(e.gone) != 1 {
		t.Errorf("%v are cut, want the first: requests have more than half", e.gone)
	}
	e.served(fourth)
	if e.visit(1, "one more") != nil || len(e.gone) != 1 {
		t.Errorf("%v are cut, though requests have no more than half", e.gone)
	}
	e.awaited(visitors["third"]) // it is answered, and may ask again
	e.present = e.present.Add(stale)
	if e.visit(1, "fifth") == nil || !e.gone["third"] || len(e.gone) != 2 {
		t.Errorf("%v are cut, want the third: it does not go on", e.gone)
	}
	if e.visit(2, "another address") == nil {
		t.Error("another address has no place")
	}
}

func TestAnAttackerTakesNoPlaceFromThoseWhoHaveFewer(t *testing.T) {
	e := newEntrance(t, 10, 4)
	e.visit(9, "slow but honest")
	for n := 1; n <= 3; n++ {
		e.crowd(n, 4)
	}
	// All places are taken, by visitors that have just come.
	if e.visit(8, "honest") == nil {
		t.Error("a new address has no place")
	}
	if e.visit(0, "through a proxy") == nil {
		t.Error("a client of a proxy has no place")
	}
	for range 100 {
		for n := 1; n <= 5; n++ {
			e.crowd(n, 1)
		}
		e.present = e.present.Add(stale / 200)
	}
	for _, name := range []string{"slow but honest", "honest", "through a proxy"} {
		if e.gone[name] {
			t.Errorf("%s: was cut", name)
		}
	}
	if e.inside != 10 {
		t.Errorf("%d are inside, want 10", e.inside)
	}
}

func TestWhenAllPlacesAreTakenTheStalestGoes(t *testing.T) {
	e := newEntrance(t, 4, 4)
	for n := 1; n <= 4; n++ {
		e.visit(n, fmt.Sprint(n))
		e.present = e.present.Add(stale / 4)
	}
	if e.visit(5, "5") == nil || !e.gone["1"] || len(e.gone) != 1 {
		t.Errorf("%v are cut, want the one that was silent for longest", e.gone)
	}
	e.descriptors = 3 // others are sockets' now
	if e.visit(6, "6") != nil || len(e.gone) != 1 {
		t.Errorf("%v are cut for one more, want it refused: the others had no time yet", e.gone)
	}
}

func TestPlacesAreGivenBackOnce(t *testing.T) {
	e := newEntrance(t, 2, 1)
	v := e.visit(0, "introduced later")
	if !e.introduce(v, host(1)) || e.visit(1, "second") != nil {
		t.Error("it does not count for the address that was named")
	}
	w := e.visit(0, "one too many")
	if e.introduce(w, host(1)) {
		t.Error("its address has two places")
	}
	for range 2 {
		e.leave(v)
		e.leave(w)
	}
	if e.inside != 0 || len(e.peers) != 0 || len(e.fullest) != 0 || e.waits.Len() != 0 {
		t.Errorf("%d inside, %d addresses, %d waits; want none", e.inside, len(e.peers), e.waits.Len())
	}
	if e.visit(1, "after that") == nil {
		t.Error("there is no place")
	}
}

func TestDescriptorsBoundVisitorsWhateverElseDoes(t *testing.T) {
	e := newEntrance(t, 0, 0)
	e.descriptors = 5
	if in := e.crowd(1, 9); in != 5 {
		t.Errorf("%d are in, want 5", in)
	}
	if e.visit(2, "another address") == nil {
		t.Error("an address with all descriptors leaves none to others")
	}
}
