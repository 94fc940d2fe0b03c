//go:build linux

package e2e

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"canopy/bench/drain"
)

// slowReader makes a client's kernel take little, so that a stalled one is soon noticed.
func slowReader(cfg *drain.Config) { cfg.ReceiveBuffer = 4 << 10 }

// calmly bounds the delay of events at sockets that read. It is far above what is seen,
// and far below what one waits that waits for a stalled socket.
const calmly = 2 * time.Second

// expectCalm fails if events were late.
func expectCalm(t *testing.T, what string, s drain.Snapshot) {
	t.Helper()
	if late := s.Latency.Quantile(0.99); late > calmly {
		t.Errorf("%s: 1 %% of the events came later than after %v", what, late)
	}
}

// expectSlow resumes stalled sockets, and fails unless all of them had been closed as slow
// consumers and had no holes before that.
func expectSlow(t *testing.T, f *drain.Fleet) {
	t.Helper()
	if err := f.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the slow sockets' ends are read", func() bool { return f.Snapshot().Open == 0 })
	s := f.Snapshot()
	if err := s.Fault(); err != nil {
		t.Errorf("slow sockets, until their end: %v", err)
	}
	if s.Closes[1013]+s.Closes[drain.CutOff] != uint64(s.Sockets) {
		t.Errorf("slow sockets were closed with %v %v, want 1013 or 1006", s.Closes, s.Reasons)
	}
}

func (w *world) expectNATSUndisturbed() {
	w.t.Helper()
	for _, message := range []string{"lost the connection to NATS", "a subscription is too slow, messages were dropped"} {
		if n := w.logs.FilterMessage(message).Len(); n > 0 {
			w.t.Errorf("%d times: %s", n, message)
		}
	}
	if n := w.metric(w.edge.Health, "canopy_edge_feed_repairs_total"); n > 0 {
		w.t.Errorf("feeds had to read from the stream %v times", n)
	}
}

func TestSlowReaderIsClosedAndHealthyOnesGetEverything(t *testing.T) {
	w := start(t, setup{public: map[string]int32{"busy": 1, "other": 1}}, "EDGE__BUFFERS__FEED_BYTES=1MiB")
	busy, other := source{"busy", 0, ""}, source{"other", 0, ""}
	healthy := &crowd{w: w, sources: []source{busy, other}, fleets: []*drain.Fleet{w.fleet("busy", "", 20), w.fleet("other", "", 5)}}
	slow := w.fleet("busy", "", 1, slowReader)
	if n, err := slow.Stall(1); n != 1 || err != nil {
		t.Fatalf("stalled %d sockets, %v", n, err)
	}
	load := w.startLoad(400, 4<<10, busy, other)
	eventually(t, "the slow reader falls behind and is closed", func() bool {
		healthy.check()
		return w.metric(w.edge.Health, `canopy_edge_closed_total{code="1013"}`) == 1
	})
	healthy.awaitMore(200)
	healthy.expectAll(load.stop())
	for _, f := range healthy.fleets {
		expectCalm(t, "healthy sockets", f.Snapshot())
	}
	expectSlow(t, slow)
	w.expectNATSUndisturbed()
}

func TestAReaderThatCatchesUpInTimeMissesNothing(t *testing.T) {
	w := start(t, setup{public: map[string]int32{"busy": 1}}, "EDGE__BUFFERS__FEED_BYTES=64MiB")
	healthy, late := w.fleet("busy", "", 5), w.fleet("busy", "", 5, slowReader)
	if n, err := late.Stall(5); n != 5 || err != nil {
		t.Fatalf("stalled %d sockets, %v", n, err)
	}
	load := w.startLoad(400, 4<<10, source{"busy", 0, ""})
	eventually(t, "sockets are stalled", func() bool { return w.metric(w.edge.Health, "canopy_edge_socket_bytes") > 0 })
	eventually(t, "they lag by far", func() bool { return had(healthy) > had(late)+500 })
	if err := late.Resume(); err != nil {
		t.Fatal(err)
	}
	n := load.stop()
	expectAll(t, "healthy", healthy, n)
	expectAll(t, "late", late, n)
}

func TestFiftyStalledReadersAmongFiveHundredStayInsideTheBudgets(t *testing.T) {
	const (
		feedBudget, socketBudget = 2 << 20, 2 << 20
		// One write more per core may be under way when the budget is noticed to be used up.
		allowance = 1 << 20
	)
	w := start(t, setup{public: map[string]int32{"busy": 1}},
		"EDGE__BUFFERS__FEED_BYTES=2MiB", "EDGE__BUFFERS__TOTAL_BYTES=2MiB", "EDGE__BUFFERS__SOCKET_BYTES=2MiB")
	healthy, slow := w.fleet("busy", "", 450), w.fleet("busy", "", 50, slowReader)
	if n, err := slow.Stall(50); n != 50 || err != nil {
		t.Fatalf("stalled %d sockets, %v", n, err)
	}
	load := w.startLoad(100, 4<<10, source{"busy", 0, ""})
	most := map[string]float64{}
	eventually(t, "every stalled reader is closed", func() bool {
		expectHealthy(t, "healthy", healthy.Snapshot())
		for _, name := range []string{"canopy_edge_feed_bytes", "canopy_edge_socket_bytes"} {
			most[name] = max(most[name], w.metric(w.edge.Health, name))
		}
		return t.Failed() || w.metric(w.edge.Health, `canopy_edge_closed_total{code="1013"}`) == 50
	})
	s := expectAll(t, "healthy", healthy, load.stop())
	expectCalm(t, "healthy sockets", s)
	if n := most["canopy_edge_feed_bytes"]; n == 0 || n > feedBudget+allowance {
		t.Errorf("feeds held %v bytes, want at most %d", n, feedBudget)
	}
	if n := most["canopy_edge_socket_bytes"]; n == 0 || n > socketBudget+allowance {
		t.Errorf("stalled sockets held %v bytes, want at most %d", n, socketBudget)
	}
	expectSlow(t, slow)
	eventually(t, "nothing is held for them any more", func() bool { return w.metric(w.edge.Health, "canopy_edge_socket_bytes") == 0 })
	w.expectNATSUndisturbed()
	t.Logf("held at most: %v; healthy: p99 %v, slowest %v", most, s.Latency.Quantile(0.99), s.Latency.Max())
}

func TestStalledReadersThatHoldTooMuchAreCutAndTheOthersGoOn(t *testing.T) {
	const (
		budget    = 1 << 20
		allowance = 1 << 20 // as above
		stalled   = 100
	)
	w := start(t, setup{public: map[string]int32{"busy": 1, "other": 1}}, "EDGE__BUFFERS__SOCKET_BYTES=1MiB")
	slow, other := w.fleet("busy", "", stalled, slowReader), w.fleet("other", "", 20)
	if n, err := slow.Stall(stalled); n != stalled || err != nil {
		t.Fatalf("stalled %d sockets, %v", n, err)
	}
	load := w.startLoad(100, 0, source{"other", 0, ""})
	n, most := uint64(0), 0.0
	eventually(t, "the budget is used up and readers are cut", func() bool {
		expectHealthy(t, "another application", other.Snapshot())
		burst := make([]*kgo.Record, 32) // much at once makes large writes, of which much is left to hold
		for i := range burst {
			n++
			burst[i] = w.numbered("busy", "", n, 8<<10)
		}
		w.produce(burst...)
		most = max(most, w.metric(w.edge.Health, "canopy_edge_socket_bytes"))
		return t.Failed() || w.metric(w.edge.Health, "canopy_edge_slow_consumers_total") > 0
	})
	if most == 0 || most > budget+allowance {
		t.Errorf("stalled sockets held %v bytes, want at most %d", most, budget)
	}
	if err := slow.Resume(); err != nil {
		t.Fatal(err)
	}
	late := w.open(w.path("busy", ""), nil)
	w.produce(w.numbered("busy", "", n+1, 0))
	// What was produced before may still be on its way to the edge and come first.
	for decode(t, read(t, late))["data"].(map[string]any)["n"] != float64(n+1) {
	}
	eventually(t, "those that were not cut get everything", func() bool {
		s := slow.Snapshot()
		return s.Events >= (n+1)*uint64(s.Open)
	})
	s := slow.Snapshot()
	if err := s.Fault(); err != nil || s.Open == 0 || s.Open == s.Sockets {
		t.Errorf("%d of %d stalled sockets are still open, %v", s.Open, s.Sockets, err)
	}
	expectCalm(t, "another application", expectAll(t, "another application", other, load.stop()))
	w.expectNATSUndisturbed()
}
