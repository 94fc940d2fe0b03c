//go:build linux

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"canopy/bench/drain"
	"canopy/bench/usage"
	"canopy/shared/natstest"
)

// stormSize is how large the storm is. The small one is for any machine.
type stormSize struct {
	applications int
	partitions   int32 // of each topic
	sockets      int   // of all applications, equally many of each
	perSecond    int   // records of all applications
	burst        int   // of them that come together in a partition
	shards       int
	still        time.Duration // before the faults
	cut          time.Duration // of an edge from NATS
	apart        time.Duration // of the nodes from each other
	frozen       time.Duration // of an edge; 0: none is
	natsBytes    string        // that may wait in the NATS client of edge 2
	calm         time.Duration // the longest that deliveries, and nodes, may take to catch up
}

// sizeOfStorm is the small size unless CANOPY_TEST_STORM=full, whose numbers
// CANOPY_TEST_STORM_APPLICATIONS, _SOCKETS, _RATE, _BURST and _SHARDS change.
func sizeOfStorm(t *testing.T) stormSize {
	t.Helper()
	number := func(name string, usual int) int {
		text := os.Getenv("CANOPY_TEST_STORM_" + name)
		if text == "" {
			return usual
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("CANOPY_TEST_STORM_%s: %v", name, err)
		}
		return n
	}
	switch text := os.Getenv("CANOPY_TEST_STORM"); text {
	case "":
		return stormSize{
			applications: 24, partitions: 2, sockets: 96, perSecond: 400, burst: 2, shards: 4,
			still: time.Second, cut: 2 * time.Second, apart: time.Second, natsBytes: "4KiB", calm: patience,
		}
	case "full":
		return stormSize{
			applications: number("APPLICATIONS", 500), partitions: 3, sockets: number("SOCKETS", 2000),
			perSecond: number("RATE", 10_000), burst: number("BURST", 5), shards: number("SHARDS", 8),
			still: 20 * time.Second, cut: 30 * time.Second, apart: 5 * time.Second, frozen: 15 * time.Second, natsBytes: "128KiB", calm: 5 * patience,
		}
	default:
		t.Fatalf("CANOPY_TEST_STORM is %q, want full", text)
		panic("not reached")
	}
}

// storm is both tiers, their servers and a load, each in a process of its own but for the
// load and the sockets, which are here.
type storm struct {
	*world
	size    stormSize
	broker  *process // nil if Kafka comes from outside
	cluster *nodes
	cables  []*natstest.Proxy // between edge 1 and the nodes
	ingests []*process
	edges   []*process
	watches []*watch
	load    *stormLoad

	begin time.Time
	last  progress
}

// progress is how many events have come how far.
type progress struct {
	at                             time.Time
	produced, published, delivered uint64
}

func startStorm(t *testing.T, size stormSize) *storm {
	s := &storm{size: size}
	public := map[string]int32{}
	for i := range size.applications {
		public[applicationName(i)] = size.partitions
	}
	kafka := outsideKafka
	if kafka == "" {
		s.broker = startProcess(t, brokerChild, nil)
		kafka = s.broker.health
	}
	s.cluster = startNodes(t, 3)
	s.world = newWorld(t, setup{public: public, broker: kafka, natsURL: s.cluster.url()})
	var cables []string
	for _, n := range s.cluster.list {
		p := natstest.StartProxy(t, n.url(), nil)
		s.cables, cables = append(s.cables, p), append(cables, p.URL())
	}
	for range 2 {
		s.ingests = append(s.ingests, s.startTier(ingestChild, s.natsURL))
	}
	s.cluster.awaitLeaders(size.shards, nil)
	// One as usual, one to be cut off, one whose client is to overflow.
	s.edges = append(s.edges, s.startTier(edgeChild, s.natsURL), s.startTier(edgeChild, strings.Join(cables, ",")),
		s.startTier(edgeChild, s.natsURL, "EDGE__BUFFERS__NATS_BYTES="+size.natsBytes))
	for _, p := range append(s.edges, s.ingests...) {
		eventually(t, p.kind+" is ready", func() bool { return isReady(p) })
	}
	s.watches = s.openSockets(t, s.edges, size)
	return s
}

// startTier runs a tier in a process of its own.
func (s *storm) startTier(kind, natsURL string, environ ...string) *process {
	s.t.Helper()
	return startProcess(s.t, kind, append(append(s.settings(natsURL),
		"INGEST__REPLICAS=3", "INGEST__SHARDS="+strconv.Itoa(s.size.shards), "INGEST__SESSION_TIMEOUT=6s",
		"EDGE__LIMITS__HALF_OPEN_PER_ADDRESS=0", // all sockets have one address
		"EDGE__APPLICATIONS_FILE="+s.file, "HTTP__BIND_ADDR=127.0.0.1:0", "RUNTIME__LOG__LEVEL=warn", "RUNTIME__LOG__FORMAT=console",
	), environ...))
}

func isReady(p *process) bool {
	response, err := http.Get("http://" + p.health + "/readiness")
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// sum adds up all samples of a metric over the processes.
func (s *storm) sum(name string, processes ...*process) (all float64) {
	for _, p := range processes {
		all += s.total(p.health, name)
	}
	return all
}

// seen is what all sockets have seen together. It ends the test as soon as one of them, or
// Kafka, shows a fault.
func (s *storm) seen() (all drain.Snapshot) {
	s.t.Helper()
	for _, w := range s.watches {
		one := w.Snapshot()
		all.Add(&one)
	}
	expectHealthy(s.t, fmt.Sprintf("after %.1f s", time.Since(s.begin).Seconds()), all)
	if err := s.load.err(); err != nil {
		s.t.Error(err)
	}
	if s.t.Failed() {
		s.explain(all.Wrong)
		s.tell()
		s.t.FailNow()
	}
	return all
}

// late is how many deliveries are missing until each edge's sockets have had as many
// events as wanted, which is by watch.
func (s *storm) late(wanted []uint64) (n uint64) {
	for i, w := range s.watches {
		n += wanted[i] - min(w.Snapshot().Events, wanted[i])
	}
	return n
}

// calm waits until on each edge as much was delivered as Kafka has now, and tells how fast
// events went since it was called last.
func (s *storm) calm(what string) {
	s.t.Helper()
	began := time.Now()
	var wanted []uint64
	for _, w := range s.watches {
		wanted = append(wanted, s.load.in(w.from, w.to))
	}
	all := s.seen()
	for ; s.late(wanted) > 0; all = s.seen() {
		if time.Since(began) > s.size.calm {
			s.tell()
			s.t.Fatalf("%s: %d deliveries are missing after %v", what, s.late(wanted), s.size.calm)
		}
		<-time.After(20 * time.Millisecond)
	}
	now := progress{time.Now(), s.load.all(), uint64(s.sum("canopy_ingest_records_published_total", s.ingests...)), all.Events}
	d := now.at.Sub(s.last.at).Seconds()
	s.t.Logf("%6.1f s  %-44s all caught up after %5.1f s; since the line before: %.0f records/s into Kafka, %.0f/s into NATS, %.0f deliveries/s",
		time.Since(s.begin).Seconds(), what, time.Since(began).Seconds(),
		float64(now.produced-s.last.produced)/d, float64(now.published-s.last.published)/d, float64(now.delivered-s.last.delivered)/d)
	s.last = now
}

// expectAll ends the load and waits until every socket has had every record.
func (s *storm) expectAll() {
	s.t.Helper()
	records := s.load.stop()
	took := time.Since(s.begin)
	s.calm("the load has ended")
	all := s.seen()
	if want := records * uint64(s.size.sockets/s.size.applications); all.Events != want {
		s.t.Errorf("%d deliveries, want %d", all.Events, want)
	}
	s.t.Logf("%d records in %.1f s: %.0f/s, asked for %d/s; %d partitions of %d topics, each record at the offset that its number says",
		records, took.Seconds(), float64(records)/took.Seconds(), s.size.perSecond, len(s.load.lanes), s.size.applications)
	s.t.Logf("%d deliveries to %d sockets on %d edges, %d open: %d holes, %d repeats, %d out of order within a partition; %d B/event; latency p50 %v, p90 %v, p99 %v, max %v",
		all.Events, all.Sockets, len(s.edges), all.Open, all.Holes, all.Repeats, all.Reorders, all.Bytes/max(all.Events, 1),
		all.Latency.Quantile(.5), all.Latency.Quantile(.9), all.Latency.Quantile(.99), all.Latency.Max())
	s.tell()
}

// tell prints what all processes have counted.
func (s *storm) tell() {
	for i, p := range s.edges {
		v := func(name string) float64 { return s.total(p.health, "canopy_edge_"+name) }
		s.t.Logf("edge %d: %.0f events, %.0f deliveries in %.0f writes; %.0f holes, %.0f repairs, %.0f events read from the stream, %.0f runs of drops by the client, %.0f requests to streams, %.0f replays, %.0f gaps; lost %d connections; CPU %s", i,
			v("events_total"), v("deliveries_total"), v("socket_writes_total"), v("feed_holes_total"), v("feed_repairs_total"), v("feed_repaired_events_total"),
			v("nats_dropped_messages_total"), v("stream_requests_total"), v("replays_total"), v("gaps_total"), p.disconnects(), cpu(p))
		if n := v("gaps_total"); n > 0 {
			s.t.Errorf("edge %d: %.0f gaps", i, n)
		}
	}
	for i, p := range s.ingests {
		v := func(name string) float64 { return s.total(p.health, "canopy_ingest_"+name) }
		s.t.Logf("ingest %d: %.0f partitions, %.0f records read, %.0f published, %.0f duplicates dropped by NATS, %.0f publish restarts, %.0f beacons; lost %d connections; CPU %s", i,
			v("partitions"), v("records_read_total"), v("records_published_total"), v("duplicates_total"), v("publish_restarts_total"), v("beacons_total"), p.disconnects(), cpu(p))
	}
	for _, n := range s.cluster.list {
		s.t.Logf("%s: CPU %s since its last start", n.name, cpu(n.process))
	}
	if s.broker != nil {
		s.t.Logf("Kafka: CPU %s", cpu(s.broker))
	}
}

// disconnects is how often the tier lost a connection to NATS.
func (p *process) disconnects() int { return strings.Count(p.text(), "lost the connection to NATS") }

func cpu(p *process) string {
	d, err := usage.CPU(p.cmd.Process.Pid)
	if err != nil {
		return err.Error()
	}
	return d.Round(10 * time.Millisecond).String()
}

// TestEverySocketGetsEveryRecordOnceAndInKafkasOrderInAStorm is small, unless
// CANOPY_TEST_STORM=full.
func TestEverySocketGetsEveryRecordOnceAndInKafkasOrderInAStorm(t *testing.T) {
	s := startStorm(t, sizeOfStorm(t))
	s.begin = time.Now()
	s.last.at = s.begin
	s.load = s.startStormLoad(s.size)
	<-time.After(s.size.still)
	s.calm("no fault yet")
	s.killNodes()
	s.cutEdge()
	s.cutRoutes()
	s.overflowClient()
	s.freezeEdge()
	s.expectAll()
}
