package procs

import (
	"runtime"
	"testing"
)

// unspare puts back what Spare changes.
func unspare(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	t.Cleanup(func() {
		spared.Store(false)
		runtime.GOMAXPROCS(before)
	})
}

func TestSpareAddsProcessorsThatWorkersDoNotCount(t *testing.T) {
	unspare(t)
	before := runtime.GOMAXPROCS(0)
	for range 2 { // the second time it does nothing
		Spare("")
		if n := runtime.GOMAXPROCS(0); n != before+extra || Workers() != before || !Spared() {
			t.Fatalf("GOMAXPROCS is %d and was %d, %d workers, spared: %v", n, before, Workers(), Spared())
		}
	}
}

func TestAnOperatorsNumberStands(t *testing.T) {
	unspare(t)
	before := runtime.GOMAXPROCS(0)
	Spare("3")
	if n := runtime.GOMAXPROCS(0); n != before || Workers() != before || Spared() {
		t.Errorf("GOMAXPROCS is %d and was %d, %d workers, spared: %v", n, before, Workers(), Spared())
	}
}

func TestWhatGoPassesOverInTheEnvironmentIsNoNumber(t *testing.T) {
	for _, value := range []string{"0", "-1", "all"} {
		t.Run(value, func(t *testing.T) {
			unspare(t)
			Spare(value)
			if !Spared() {
				t.Error("nothing was spared")
			}
		})
	}
}
