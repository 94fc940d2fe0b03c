package garbage

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

func TestGarbageMayLieWhereCollectionsFollowOneAnotherAndNothingGrows(t *testing.T) {
	for _, c := range []struct {
		name  string
		every time.Duration // collections
		live  []uint64      // MiB, after each of them
		want  int
	}{
		{"busy", 100 * time.Millisecond, []uint64{10, 10, 10, 10, 10, 10, 10, 10, 10}, 320},
		{"busy with little", 100 * time.Millisecond, []uint64{1, 1, 1, 1, 1, 1, 1, 1}, most},
		{"busy with much", 100 * time.Millisecond, []uint64{100, 100, 100, 100, 100, 100, 100, 100}, usual},
		{"up and down", 25 * time.Millisecond, []uint64{6, 9, 7, 10, 7, 9, 6, 10}, 400},
		{"not for long", 100 * time.Millisecond, []uint64{10, 10, 10, 10, 10, 10, 10}, usual},
		{"seldom", time.Second, []uint64{10, 10, 10, 10, 10, 10, 10, 10, 10, 10}, usual},
		{"sockets are opened", 50 * time.Millisecond, []uint64{3, 4, 4, 5, 6, 6, 6, 7, 7, 8, 8, 8, 9, 10, 11, 11, 13, 12, 12, 15}, usual},
		{"grows later", 100 * time.Millisecond, []uint64{10, 10, 10, 10, 10, 10, 10, 10, 10, 12, 16}, usual},
		{"has grown", 100 * time.Millisecond, []uint64{10, 12, 14, 16, 20, 20, 20, 20, 20, 20, 20}, 160},
		{"has grown while more might lie", 100 * time.Millisecond, []uint64{5, 5, 5, 5, 5, 5, 5, 5, 20, 10, 10, 10, 10, 10, 10, 10}, usual},
		{"and goes on", 100 * time.Millisecond, []uint64{5, 5, 5, 5, 5, 5, 5, 5, 20, 10, 10, 10, 10, 10, 10, 10, 10}, 320},
		{"grows slowly while more may lie", 100 * time.Millisecond, slowly(10, 60), usual},
		{"has shrunk while more may lie", 100 * time.Millisecond, []uint64{20, 20, 20, 20, 20, 20, 20, 20, 5, 5, 5, 5, 5, 5, 5, 5}, 160},
		{"shrinks", 100 * time.Millisecond, []uint64{20, 15, 10, 10, 10, 10, 10, 10}, 320},
	} {
		p := pacer{percent: usual}
		before := p.percent
		for i, live := range c.live {
			changed := p.collected(live<<20, time.Minute+time.Duration(i)*c.every)
			if changed != (p.percent != before) {
				t.Errorf("%s: %d after %d, and changed is %v", c.name, p.percent, before, changed)
			}
			before = p.percent
		}
		if p.percent != c.want {
			t.Errorf("%s: %d percent, want %d", c.name, p.percent, c.want)
		}
	}
}

func TestGarbageMayLieNoLongerWhenTheProcessHasLessToDo(t *testing.T) {
	for _, c := range []struct {
		allocated, live uint64
		want            int
	}{
		{10 << 20, 10 << 20, 300}, {5 << 20, 10 << 20, 300}, {5<<20 - 1, 10 << 20, usual}, {1<<20 - 1, 1 << 20, usual}, {1 << 20, 1 << 20, 300},
	} {
		p := pacer{percent: 300}
		if changed := p.slower(c.allocated, c.live); changed != (c.want == usual) || p.percent != c.want {
			t.Errorf("%d bytes, %d alive: %d percent, want %d", c.allocated, c.live, p.percent, c.want)
		}
	}
}

// slowly grows by 3 % a collection.
func slowly(from float64, n int) (all []uint64) {
	for range busyTurns {
		all = append(all, uint64(from))
	}
	for range n {
		from *= 1.03
		all = append(all, uint64(from))
	}
	return all
}

// waste is garbage soon, and not on the stack.
var waste []byte

// percent is what the runtime goes by.
func percent() uint64 {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

func TestABusyProcessCollectsSeldomAndACalmOneAsUsual(t *testing.T) {
	t.Setenv("GOGC", "")
	before := debug.SetGCPercent(usual)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); Run(ctx) }()
	defer func() { cancel(); <-done }()
	begun := time.Now()
	for percent() == usual {
		waste = make([]byte, 64<<10)
		if time.Since(begun) > time.Minute {
			t.Fatal("garbage is collected as usual, busy as the process is")
		}
	}
	for deadline := time.Now().Add(time.Minute); percent() != usual; <-time.After(every / 10) {
		if time.Now().After(deadline) {
			t.Fatalf("%d percent, and nothing is allocated", percent())
		}
	}
}

func TestWhoSetsGOGCDecides(t *testing.T) {
	t.Setenv("GOGC", "100")
	chosen := percent()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); Run(ctx) }()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	for now = before; now.NumGC < before.NumGC+4*busyTurns; runtime.ReadMemStats(&now) {
		for range 100 {
			waste = make([]byte, 64<<10)
		}
	}
	cancel()
	<-done
	if n := percent(); n != chosen {
		t.Errorf("%d percent", n)
	}
}
