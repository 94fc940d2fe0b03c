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
	"canopy/shared/subject"
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

// stormEdge runs an edge in this process whose feeds let only pending messages wait in the
// NATS client. Its feeds' metrics are in the registry.
func stormEdge(t *testing.T, natsURL, file string, pending int) (address string, feeds *prometheus.Registry) {
	t.Helper()
	cfg, err := config.Read("", nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.NATS.URL, cfg.Edge.ApplicationsFile, cfg.Edge.Drain = natsURL, file, 100*time.Millisecond
	cfg.HTTP.BindAddr, cfg.Runtime.Health.BindAddr = "127.0.0.1:0", "127.0.0.1:0"
	e := &edge{cfg: cfg, log: zaptest.NewLogger(t, zaptest.Level(zapcore.WarnLevel)), broken: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	if err := e.open(ctx); err != nil {
		e.close()
		cancel()
		t.Fatal(err)
	}
	feeds = prometheus.NewRegistry()
	e.hub = feed.New(feed.Config{Buffers: cfg.Edge.Buffers, Held: e.engine.Held, PendingMessages: pending}, e.feeds, e.requests, e.log, feeds)
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

// TestSocketsStayOpenAndMissNothingInAStorm is small, unless CANOPY_TEST_STORM=full.
func TestSocketsStayOpenAndMissNothingInAStorm(t *testing.T) {
	size := sizeOfStorm(t)
	cluster := natstest.StartCluster(t)
	s := &stack{t: t, js: cluster.Streams(shards)}
	names, file := manyApplications(t, size.applications)
	proxy := natstest.StartProxy(t, cluster.Nodes[0].URL(), nil)
	var edges []string
	var feeds []*prometheus.Registry
	for _, e := range []struct {
		url     string
		pending int
	}{{cluster.URL(), 0}, {proxy.URL(), 0}, {cluster.URL(), 1}} { // as usual, to be cut off, to overflow
		address, reg := stormEdge(t, e.url, file, e.pending)
		edges, feeds = append(edges, address), append(feeds, reg)
	}
	var members []*member
	for i := range size.sockets {
		at := []string{edges[i/size.applications%len(edges)]}
		members = append(members, &member{application: names[i%size.applications], edges: func() []string { return at }})
	}
	f := startFleet(t, members)
	f.await("connect", 3*patience, func(m *member) bool { return m.opened.Load() == 1 })
	begin := time.Now()
	load := s.startFlow(names, float64(size.perSecond)/float64(size.applications))
	cut := false // edge 1 has no server to connect to
	calm := func(what string) {
		t.Helper()
		t.Logf("%6.1f s: %s", time.Since(begin).Seconds(), what)
		least := load.published[0].Load() + 5
		f.await("get events after: "+what, 6*patience, func(m *member) bool {
			away := cut && m.edges()[0] == edges[1]
			return m.last.Load() >= least || m.application != names[0] || away
		})
	}
	calm("begin")
	for i, node := range cluster.Nodes { // each is killed in turn
		node.Down()
		cut = i == 0 // the one behind the proxy
		for shard := range shards {
			cluster.AwaitLeader(shard, node)
		}
		calm(fmt.Sprintf("node %d is down", i))
		node.Up()
		cut = false
		for shard := range shards {
			cluster.AwaitReplicas(s.js, shard)
		}
		calm(fmt.Sprintf("node %d is back", i))
	}
	proxy.Refuse()
	before := load.published[0].Load()
	<-time.After(size.cut) // the fault itself takes this long
	missed := load.published[0].Load() - before
	refused := proxy.Admit()
	calm(fmt.Sprintf("edge 1 was cut off for %v, its application 0 published %d events meanwhile", size.cut, missed))
	leader := cluster.Leader(subject.Shard(names[0], shards))
	cluster.CutRoutes()
	stuck := load.published[0].Load()
	<-time.After(time.Second)
	stuck = load.published[0].Load() - stuck
	cluster.JoinRoutes()
	for shard := range shards {
		cluster.AwaitLeader(shard, nil)
	}
	calm(fmt.Sprintf("routes were cut for a second, application 0 published %d events meanwhile", stuck))
	last, all := load.stop()
	took := time.Since(begin)
	numbers := map[string]int64{}
	for i, name := range names {
		numbers[name] = last[i]
	}
	f.await("get every event", 6*patience, func(m *member) bool { return m.last.Load() == numbers[m.application] })
	delivered := int64(0)
	for _, m := range members {
		delivered += m.last.Load()
		if m.opened.Load() != 1 {
			t.Errorf("a socket of %s was opened %d times", m.application, m.opened.Load())
		}
	}
	t.Logf("%d events published in %v (%.0f/s, asked for %d/s), %d delivered to %d sockets of %d applications on 3 edges, each once and in order",
		all, took, float64(all)/took.Seconds(), size.perSecond, delivered, len(members), len(names))
	for i, reg := range feeds {
		t.Logf("edge %d: %v holes, %v repairs, %v events read from the stream, %v runs of drops by the client, %v gaps, %v requests to streams", i,
			counter(t, reg, "canopy_edge_feed_holes_total"), counter(t, reg, "canopy_edge_feed_repairs_total"),
			counter(t, reg, "canopy_edge_feed_repaired_events_total"), counter(t, reg, "canopy_edge_nats_dropped_messages_total"),
			counter(t, reg, "canopy_edge_gaps_total"), counter(t, reg, "canopy_edge_stream_requests_total"))
		if n := counter(t, reg, "canopy_edge_gaps_total"); n > 0 {
			t.Errorf("edge %d: %v gaps", i, n)
		}
	}
	if refused == 0 || missed == 0 || counter(t, feeds[1], "canopy_edge_feed_repaired_events_total") == 0 {
		t.Errorf("edge 1 was not cut off: %d connections refused, %d events meanwhile", refused, missed)
	}
	if counter(t, feeds[2], "canopy_edge_nats_dropped_messages_total") == 0 {
		t.Error("the client of edge 2 never overflowed")
	}
	if leader == nil {
		t.Error("there was no leader before the routes were cut")
	}
}
