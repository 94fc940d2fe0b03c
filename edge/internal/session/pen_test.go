package session

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

func TestExactlyOneWritesTheCloseFrameAndNobodyAfterIt(t *testing.T) {
	for range 2000 {
		var p pen
		var farewells, late atomic.Int32
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				if !p.take() {
					return
				}
				if farewells.Load() > 0 {
					late.Add(1)
				}
				if p.put() {
					farewells.Add(1)
				}
			})
		}
		all.Go(func() {
			if p.last() {
				farewells.Add(1)
			}
		})
		all.Wait()
		if farewells.Load() != 1 || late.Load() != 0 || p.take() {
			t.Fatalf("%d close frames, %d control frames after one", farewells.Load(), late.Load())
		}
	}
}

func TestCloseCodesMakeFewLabels(t *testing.T) {
	labels := make(map[string]bool)
	for code := uint16(1000); code < 5000; code++ {
		if code < 1015 || code >= 3000 { // what ws lets through
			labels[codeLabel(code)] = true
		}
	}
	if len(labels) != 16 || !labels["private"] || !labels["1008"] {
		t.Errorf("%d labels: %s", len(labels), fmt.Sprint(labels))
	}
}
