package heap

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

// goal is the size at which the heap is collected next.
func goal() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// awaitGoal collects until the next goal is as ok says.
func awaitGoal(t *testing.T, ok func(goal uint64) bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(goal()); {
		if time.Now().After(end) {
			t.Fatalf("the heap is to be collected at %d bytes", goal())
		}
		runtime.GC()
	}
}

func TestGarbageMayReachTheFloorAndIsCollectedAsUsualAboveIt(t *testing.T) {
	t.Cleanup(func() { debug.SetGCPercent(usual) })
	Keep("")
	if n := goal(); n < floor {
		t.Errorf("the heap is to be collected at %d bytes", n)
	}
	large := make([]byte, 4*floor)
	awaitGoal(t, func(n uint64) bool { return n >= 8*floor && n < 9*floor })
	runtime.KeepAlive(large)
	large = nil
	awaitGoal(t, func(n uint64) bool { return n >= floor && n < 2*floor })
}

func TestAnOperatorsPercentageStands(t *testing.T) {
	before := debug.SetGCPercent(usual)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	Keep("200")
	if n := debug.SetGCPercent(usual); n != usual {
		t.Errorf("garbage is collected at %d percent", n)
	}
}
