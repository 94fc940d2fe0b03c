//go:build linux

package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"canopy/bench/drain"
	"canopy/shared/natstest"
	"canopy/shared/topic"
)

const (
	// rounds is how often a fault is repeated.
	rounds = 10

	// rate is that of the load, in events of each source a second.
	rate = 300
)

// crowd is what watches a load: for each of its sources a fleet of sockets.
type crowd struct {
	w       *world
	sources []source
	fleets  []*drain.Fleet
}

// watched are two partitions of one application and one of another, in different streams
// or not, as their names have it.
var watched = []source{{"one", 0, "left"}, {"one", 1, "right"}, {"two", 0, ""}}

var watchedTopics = map[string]int32{"one": 2, "two": 1}

// gather opens the sockets. It must come before the load begins.
func (w *world) gather(sources []source) *crowd {
	w.t.Helper()
	c := &crowd{w: w, sources: sources}
	for _, s := range sources {
		c.fleets = append(c.fleets, w.fleet(s.application, s.channel, 10))
	}
	return c
}

// seen is how many events of its source the fleet has had that has had fewest.
func (c *crowd) seen() uint64 {
	least := had(c.fleets[0])
	for _, f := range c.fleets[1:] {
		least = min(least, had(f))
	}
	return least
}

// awaitMore waits until every fleet has had n events more than the most that any has now.
func (c *crowd) awaitMore(n uint64) {
	c.w.t.Helper()
	most := uint64(0)
	for _, f := range c.fleets {
		most = max(most, had(f))
	}
	eventually(c.w.t, fmt.Sprintf("every socket gets %d more events", n), func() bool {
		c.check()
		return c.seen() >= most+n
	})
}

// check ends the test as soon as something is lost, repeated, out of order or closed.
func (c *crowd) check() {
	c.w.t.Helper()
	for i, f := range c.fleets {
		expectHealthy(c.w.t, fmt.Sprint(c.sources[i]), f.Snapshot())
	}
	if c.w.t.Failed() {
		c.w.t.FailNow()
	}
}

// expectAll waits until every socket has had everything.
func (c *crowd) expectAll(n uint64) {
	c.w.t.Helper()
	for i, f := range c.fleets {
		expectAll(c.w.t, fmt.Sprint(c.sources[i]), f, n)
	}
}

func TestSocketsMissNothingWhenNATSIsRestartedUnderLoad(t *testing.T) {
	w := newWorld(t, setup{public: watchedTopics, stopsNATS: true})
	w.startIngest(w.natsURL)
	w.startEdge(w.natsURL)
	c := w.gather(watched)
	load := w.startLoad(rate, 0, watched...)
	for round := range rounds {
		c.awaitMore(100)
		w.nats.Down()
		before := load.count.Load()
		eventually(t, "records come while NATS is away", func() bool { return load.count.Load() > before+100 })
		if round == rounds-1 {
			load.stop() // nothing that comes later shows what was missed
		}
		w.nats.Up()
	}
	c.expectAll(load.stop())
	edge := w.logs.FilterLoggerName("edge").FilterMessage("lost the connection to NATS")
	ingest := w.logs.FilterLoggerName("ingest").FilterMessage("lost the connection to NATS")
	if edge.Len() < rounds || ingest.Len() < rounds {
		t.Errorf("the edge lost its connections %d times and ingest %d times, want %d: the fault did not happen", edge.Len(), ingest.Len(), rounds)
	}
}

func TestSocketsMissNothingAndGetNothingTwiceWhenIngestIsKilled(t *testing.T) {
	w := newWorld(t, setup{public: watchedTopics})
	var deaf atomic.Bool
	proxy := natstest.StartProxy(t, w.natsURL, func(string) bool { return deaf.Load() })
	ingest := w.startChild(proxy.URL())
	w.startEdge(w.natsURL)
	c := w.gather(watched)
	load := w.startLoad(rate, 0, watched...)
	var paused time.Duration
	for kills, tries := 0, 0; kills < rounds; tries++ {
		if tries == 3*rounds {
			t.Fatalf("only %d of %d kills came between publish and commit", kills, tries)
		}
		c.awaitMore(100)
		if tries%2 == 0 {
			// Without acknowledgements nothing more may be committed, for longer than
			// commits are apart, although ingest reads on.
			deaf.Store(true)
			from := load.count.Load()
			eventually(t, "records wait for acknowledgements", func() bool {
				waiting := w.metric(ingest.health, "canopy_ingest_window_records")
				return load.count.Load() > from+rate*3/2 && waiting > rate*3/2 && c.uncommitted() > 0
			})
		} else {
			eventually(t, "events wait for a commit", func() bool { return c.uncommitted() > 50 })
		}
		if !ingest.kill() {
			t.FailNow()
		}
		deaf.Store(false)
		killed := time.Now()
		uncommitted := c.uncommitted()
		ingest = w.startChild(proxy.URL())
		// The dead one stays in its group until its session ends, and has the partitions.
		eventually(t, "the new ingest has the dead one's partitions", func() bool {
			return w.metric(ingest.health, "canopy_ingest_partitions") == float64(len(watched))
		})
		paused = max(paused, time.Since(killed))
		if uncommitted == 0 {
			continue // a commit came at the last moment, so this kill proves nothing
		}
		kills++
		eventually(t, "what was published and not committed is published again", func() bool {
			c.check()
			return w.metric(ingest.health, "canopy_ingest_duplicates_total") > 0
		})
	}
	c.awaitMore(200)
	c.expectAll(load.stop())
	t.Logf("killed to assigned again: %v at most", paused)
	// Starting a process and joining come on top.
	if most := session() + 8*time.Second; paused > most {
		t.Errorf("no ingest had the partitions for %v, want less than %v", paused, most)
	}
}

// session is the session time-out of ingests in the group. Brokers take less than their
// own default only if they are told to, and those from outside may not be.
func session() time.Duration {
	if outsideKafka != "" {
		return 6 * time.Second
	}
	return 2 * time.Second
}

// startChild runs ingest in a process of its own.
func (w *world) startChild(natsURL string) *process {
	w.t.Helper()
	return startProcess(w.t, ingestChild, append(w.settings(natsURL), "INGEST__REPLICAS=1", "INGEST__RETENTION__BYTES=1GiB",
		"INGEST__SESSION_TIMEOUT="+session().String(),
		"RUNTIME__LOG__LEVEL=warn", "RUNTIME__LOG__FORMAT=console"))
}

// uncommitted is how many events sockets have had of the source of which most are not
// committed in Kafka.
func (c *crowd) uncommitted() uint64 {
	c.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	offsets, err := c.w.admin.FetchOffsets(ctx, c.w.prefix)
	if err != nil {
		c.w.t.Fatalf("read committed offsets: %v", err)
	}
	most := uint64(0)
	for i, s := range c.sources {
		committed := uint64(0)
		if o, ok := offsets.Lookup(topic.Of(c.w.app(s.application)), s.partition); ok {
			committed = uint64(max(0, o.At))
		}
		seen := had(c.fleets[i])
		most = max(most, seen-min(seen, committed))
	}
	return most
}

func TestOrderAndCompletenessSurvivePublishesThatFailInTheMiddleOfAWindow(t *testing.T) {
	w := newWorld(t, setup{public: watchedTopics})
	var deaf atomic.Bool
	proxy := natstest.StartProxy(t, w.natsURL, func(string) bool { return deaf.Load() })
	w.startIngest(proxy.URL())
	w.startEdge(w.natsURL)
	c := w.gather(watched)
	load := w.startLoad(rate, 0, watched...)
	restarts := func() (n float64) {
		for _, reason := range []string{"timeout", "disconnected", "incomplete", "error", "send"} {
			n += w.metric(w.ingest.IngestHealth, `canopy_ingest_publish_restarts_total{reason="`+reason+`"}`)
		}
		return n
	}
	for round := range rounds {
		c.awaitMore(50)
		before := restarts()
		if round%2 == 0 {
			// What NATS says to ingest is lost from here on: it stores, and ingest does not know.
			deaf.Store(true)
			lost := proxy.Dropped()
			eventually(t, "acknowledgements are lost", func() bool { return proxy.Dropped() > lost })
		}
		for again := true; again; again = restarts() == before {
			// Under load a batch is open nearly always, but not at every moment.
			proxy.Cut()
			deaf.Store(false)
			c.awaitMore(50)
		}
	}
	c.expectAll(load.stop())
	if n := w.metric(w.ingest.IngestHealth, "canopy_ingest_duplicates_total"); n == 0 {
		t.Error("nothing that was stored has been published again: the fault did not happen")
	}
}

func TestSocketsGetWhatIsLostBetweenNATSAndTheEdge(t *testing.T) {
	w := newWorld(t, setup{public: watchedTopics})
	var events, answers atomic.Int64
	var honest atomic.Bool
	proxy := natstest.StartProxy(t, w.natsURL, func(subject string) bool {
		switch {
		case honest.Load():
			return false
		case strings.HasPrefix(subject, "events."):
			// Runs of different lengths, also longer ones than one read from the stream.
			n := events.Add(1)
			return n%7 < 3 || n%2000 > 1300
		default:
			// Answers to reads from the stream are lost, too, now and then.
			return answers.Add(1)%40 == 39
		}
	})
	w.startIngest(w.natsURL)
	honest.Store(true)
	w.startEdge(proxy.URL())
	c := w.gather(watched)
	honest.Store(false)
	load := w.startLoad(rate, 0, watched...)
	eventually(t, "thousands of events come", func() bool { c.check(); return load.count.Load() > 3000 })
	honest.Store(true) // the end of the stream must show that others are missing
	c.awaitMore(50)
	c.expectAll(load.stop())
	for name, least := range map[string]float64{
		"canopy_edge_feed_holes_total": 10, "canopy_edge_feed_repaired_events_total": 1000, "canopy_edge_feed_repair_errors_total": 1,
	} {
		if n := w.metric(w.edge.Health, name); n < least {
			t.Errorf("%s = %v, want at least %v: the fault did not happen", name, n, least)
		}
	}
	if n := proxy.Dropped(); n < 1000 {
		t.Errorf("%d messages were lost on the way: the fault did not happen", n)
	}
}
