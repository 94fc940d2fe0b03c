package gateway

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"

	"canopy/edge/internal/feed"
	"canopy/shared/config"
	"canopy/shared/natstest"
)

// stormSize is how large the storm is. The small one is for any machine.
type stormSize struct {
	applications, sockets, perSecond int // sockets and events a second of all applications
	cut                              time.Duration
}

func sizeOfStorm(t *testing.T) stormSize {
	switch size := os.Getenv("CANOPY_TEST_STORM"); size {
	case "":
		return stormSize{applications: 30, sockets: 120, perSecond: 600, cut: 3 * time.Second}
	case "full":
		return stormSize{
			applications: sizeOf(t, "CANOPY_TEST_STORM_APPLICATIONS", 500), sockets: sizeOf(t, "CANOPY_TEST_STORM_SOCKETS", 2000),
			perSecond: sizeOf(t, "CANOPY_TEST_STORM_RATE", 10_000), cut: 30 * time.Second,
		}
	default:
		t.Fatalf("CANOPY_TEST_STORM is %q, want full", size)
		panic("not reached")
	}
}

// stormEdge runs an edge in this process whose feeds let only so many bytes wait in the
// NATS client, if they are not 0. Its feeds' metrics are in the registry.
func stormEdge(t *testing.T, natsURL, file string, waiting int64) (address string, feeds *prometheus.Registry) {
	t.Helper()
	cfg, err := config.Read("", nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.NATS.URL, cfg.Edge.ApplicationsFile, cfg.Edge.Drain = natsURL, file, 100*time.Millisecond
	if waiting > 0 {
		cfg.Edge.Buffers.NATSBytes = waiting
	}
	cfg.HTTP.BindAddr, cfg.Runtime.Health.BindAddr = "127.0.0.1:0", "127.0.0.1:0"
	e := &edge{cfg: cfg, log: zaptest.NewLogger(t, zaptest.Level(zapcore.WarnLevel)), broken: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	if err := e.open(ctx); err != nil {
		e.close()
		cancel()
		t.Fatal(err)
	}
	feeds = prometheus.NewRegistry()
	e.hub = feed.New(feed.Config{Buffers: cfg.Edge.Buffers, Held: e.engine.Held}, e.feeds, e.requests, e.log, feeds)
	e.repairs.Store(e.hub)
	done := make(chan error, 1)
	go func() { done <- e.serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("edge ended with %v", err)
		}
		e.close()
	})
	for deadline := time.Now().Add(patience); e.hub.Ready() != nil; <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("edge is not ready: %v", e.hub.Ready())
		}
	}
	return e.listener.Addr().String(), feeds
}

// counter sums up a counter of a registry.
func counter(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// storm is three edges on a cluster, sockets on them, a load, and what happens to them.
type storm struct {
	*stack
	size    stormSize
	cluster *natstest.Cluster
	proxy   *natstest.Proxy // before edge 1
	names   []string        // of applications
	edges   []string        // addresses
	feeds   []*prometheus.Registry
	fleet   *fleet
	load    *flow
	begin   time.Time
	away    bool // edge 1 has no server to connect to
}

func startStorm(t *testing.T, size stormSize) *storm {
	w := &storm{size: size, cluster: natstest.StartCluster(t)}
	w.stack = &stack{t: t, js: w.cluster.Streams(shards)}
	names, file := manyApplications(t, size.applications)
	w.names = names
	w.proxy = natstest.StartProxy(t, w.cluster.Nodes[0].URL(), nil)
	for _, e := range []struct {
		url     string
		waiting int64
	}{{w.cluster.URL(), 0}, {w.proxy.URL(), 0}, {w.cluster.URL(), 1}} { // as usual, to be cut off, to overflow
		address, reg := stormEdge(t, e.url, file, e.waiting)
		w.edges, w.feeds = append(w.edges, address), append(w.feeds, reg)
	}
	var members []*member
	for i := range size.sockets {
		at := []string{w.edges[i/size.applications%len(w.edges)]}
		members = append(members, &member{application: names[i%size.applications], edges: func() []string { return at }})
	}
	w.fleet = startFleet(t, members)
	w.fleet.await("connect", 3*patience, func(m *member) bool { return m.opened.Load() == 1 })
	w.begin = time.Now()
	w.load = w.startFlow(names, float64(size.perSecond)/float64(size.applications))
	return w
}

// calm waits until the sockets of one application get events again.
func (w *storm) calm(what string) {
	w.t.Helper()
	w.t.Logf("%6.1f s: %s", time.Since(w.begin).Seconds(), what)
	least := w.load.published[0].Load() + 5
	w.fleet.await("get events after: "+what, 6*patience, func(m *member) bool {
		return m.last.Load() >= least || m.application != w.names[0] || w.away && m.edges()[0] == w.edges[1]
	})
}

// stopNodes stops each node in turn.
func (w *storm) stopNodes() {
	for i, node := range w.cluster.Nodes {
		node.Down()
		w.away = i == 0 // the one behind the proxy
		for shard := range shards {
			w.cluster.AwaitLeader(shard, node)
		}
		w.calm(fmt.Sprintf("node %d is down", i))
		node.Up()
		w.away = false
		for shard := range shards {
			w.cluster.AwaitReplicas(w.js, shard)
		}
		w.calm(fmt.Sprintf("node %d is back", i))
	}
}

// publishedIn is how many events application 0 publishes in the time that a fault lasts.
func (w *storm) publishedIn(d time.Duration) int64 {
	before := w.load.published[0].Load()
	<-time.After(d)
	return w.load.published[0].Load() - before
}

func (w *storm) cutEdge() {
	w.proxy.Refuse()
	missed := w.publishedIn(w.size.cut)
	refused := w.proxy.Admit()
	w.calm(fmt.Sprintf("edge 1 was cut off for %v, application 0 published %d events meanwhile", w.size.cut, missed))
	if refused == 0 || missed == 0 || counter(w.t, w.feeds[1], "canopy_edge_feed_repaired_events_total") == 0 {
		w.t.Errorf("edge 1 was not cut off: %d connections refused, %d events meanwhile", refused, missed)
	}
}

func (w *storm) cutRoutes() {
	w.cluster.CutRoutes()
	stuck := w.publishedIn(time.Second)
	w.cluster.JoinRoutes()
	for shard := range shards {
		w.cluster.AwaitLeader(shard, nil)
	}
	w.calm(fmt.Sprintf("routes were cut for a second, application 0 published %d events meanwhile", stuck))
}

// overflow has events come at once until the NATS client of edge 2 has dropped some.
func (w *storm) overflow() {
	const size, most = 200, 100
	bursts := 0
	for ; counter(w.t, w.feeds[2], "canopy_edge_nats_dropped_messages_total") == 0; bursts++ {
		if bursts == most {
			w.t.Fatalf("the client of edge 2 never overflowed in %d bursts of %d events", most, size)
		}
		select {
		case w.load.bursts <- size:
		case <-time.After(patience):
			w.t.Fatal("application 0 publishes no more")
		}
	}
	w.calm(fmt.Sprintf("the client of edge 2 has overflowed, after %d bursts", bursts))
}

// expectAll ends the load and waits until every socket has had every event.
func (w *storm) expectAll() {
	last, all := w.load.stop()
	took := time.Since(w.begin)
	numbers := map[string]int64{}
	for i, name := range w.names {
		numbers[name] = last[i]
	}
	w.fleet.await("get every event", 6*patience, func(m *member) bool { return m.last.Load() == numbers[m.application] })
	delivered := int64(0)
	for _, m := range w.fleet.members {
		delivered += m.last.Load()
		if m.opened.Load() != 1 {
			w.t.Errorf("a socket of %s was opened %d times", m.application, m.opened.Load())
		}
	}
	w.t.Logf("%d events published in %v (%.0f/s, asked for %d/s), %d delivered to %d sockets of %d applications on 3 edges, each once and in order",
		all, took, float64(all)/took.Seconds(), w.size.perSecond, delivered, len(w.fleet.members), len(w.names))
	for i, reg := range w.feeds {
		w.t.Logf("edge %d: %v holes, %v repairs, %v events read from the stream, %v runs of drops by the client, %v gaps, %v requests to streams", i,
			counter(w.t, reg, "canopy_edge_feed_holes_total"), counter(w.t, reg, "canopy_edge_feed_repairs_total"),
			counter(w.t, reg, "canopy_edge_feed_repaired_events_total"), counter(w.t, reg, "canopy_edge_nats_dropped_messages_total"),
			counter(w.t, reg, "canopy_edge_gaps_total"), counter(w.t, reg, "canopy_edge_stream_requests_total"))
		if n := counter(w.t, reg, "canopy_edge_gaps_total"); n > 0 {
			w.t.Errorf("edge %d: %v gaps", i, n)
		}
	}
}

// TestSocketsStayOpenAndMissNothingInAStorm is small, unless CANOPY_TEST_STORM=full.
func TestSocketsStayOpenAndMissNothingInAStorm(t *testing.T) {
	w := startStorm(t, sizeOfStorm(t))
	w.calm("begin")
	w.stopNodes()
	w.cutEdge()
	w.cutRoutes()
	w.overflow()
	w.expectAll()
}
