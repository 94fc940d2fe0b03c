package drain

import (
	"math/rand/v2"
	"testing"
)

func TestNumbersAreASet(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var sets [3]Numbers
	var want [3]map[uint64]bool
	for i := range sets {
		want[i] = map[uint64]bool{}
		for range 2_000 {
			n := 5_000 + random.Uint64N(4_000)
			if got := sets[i].Add(n); got == want[i][n] {
				t.Fatalf("Add(%d) = %v", n, got)
			}
			want[i][n] = true
		}
	}
	common := uint64(0)
	for n := range want[1] {
		if want[0][n] {
			common++
		}
		want[0][n] = true
	}
	if got := sets[0].Merge(&sets[1]); got != common {
		t.Errorf("%d were common instead of %d", got, common)
	}
	for range 1_000 {
		from := 4_900 + random.Uint64N(4_200)
		to := from + random.Uint64N(500)
		n := uint64(0)
		for k := range want[0] {
			if k >= from && k <= to {
				n++
			}
		}
		if got := sets[0].Len(from, to); got != n {
			t.Errorf("%d from %d to %d instead of %d", got, from, to, n)
		}
	}
}

func TestNumbersThatCannotBeTrueAreRefused(t *testing.T) {
	for _, far := range []uint64{1, 1 << 40} {
		var s Numbers
		if !s.Add(1<<30) || s.Add(far) {
			t.Errorf("%d beside 1<<30 was taken", far)
		}
	}
}
