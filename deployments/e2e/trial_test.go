//go:build linux

package e2e

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"canopy/deployments/e2e/oracle"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

const (
	trialApplications = 3
	trialPartitions   = 2
	trialShards       = 2
	trialRate         = 120 // records of all applications a second

	// ackWait is after what time NATS sends again what a member had that is gone without a word.
	ackWait = 15 * time.Second
)

// trial is everything from a broker to clients, in processes of their own but for the clients,
// which faults are done to, and which an oracle judges in the end.
type trial struct {
	*world
	seed    uint64
	random  *rand.Rand
	broker  *broker // nil if Kafka comes from outside
	cluster *nodes
	ingests []*tier
	edges   []*tier
	load    *trialLoad
	clients *clients
	forgot  atomic.Bool // the log's bounds, or a fault, may take something that nobody brings back
}

// cable is what a tier reaches a node through.
type cable struct {
	*natstest.Proxy
	loss, turn atomic.Int64 // messages of each hundred that are lost on the way to the tier
}

// tier is an ingest or an edge that can be started again.
type tier struct {
	*process
	t       *trial
	kind    string
	cables  []*cable
	environ []string

	mu sync.Mutex
	at string // HTTP address of an edge
}

// startTrial starts everything, with as many NATS nodes.
func startTrial(t *testing.T, seed uint64, size int, environ ...string) *trial {
	t.Helper()
	r := &trial{seed: seed, random: rand.New(rand.NewPCG(seed, 16))}
	kafka := outsideKafka
	if kafka == "" {
		r.broker = startBroker(t)
		kafka = r.broker.health
	}
	r.cluster = startNodes(t, size)
	public := map[string]int32{}
	for i := range trialApplications {
		public[applicationName(i)] = trialPartitions
	}
	r.world = newWorld(t, setup{public: public, broker: kafka, natsURL: r.cluster.url()})
	environ = append(r.settings(""), append([]string{
		"INGEST__REPLICAS=" + strconv.Itoa(size), "INGEST__SHARDS=" + strconv.Itoa(trialShards),
		"INGEST__SESSION_TIMEOUT=" + session().String(), "EDGE__GROUPS__ACK_WAIT=" + ackWait.String(), "EDGE__LIMITS__HALF_OPEN_PER_ADDRESS=0",
		"EDGE__APPLICATIONS_FILE=" + r.file, "EDGE__DRAIN=100ms", "HTTP__BIND_ADDR=127.0.0.1:0",
		"RUNTIME__LOG__LEVEL=info", "RUNTIME__LOG__FORMAT=console",
	}, environ...)...)
	for range 2 {
		r.ingests = append(r.ingests, r.startTier(ingestChild, environ))
	}
	r.awaitStreams()
	for range 2 {
		r.edges = append(r.edges, r.startTier(edgeChild, environ))
	}
	r.awaitReady()
	r.clients = r.connectClients()
	r.load = r.startTrialLoad()
	return r
}

func (r *trial) startTier(kind string, environ []string) *tier {
	r.world.t.Helper()
	one := &tier{t: r, kind: kind}
	var urls []string
	for _, n := range r.cluster.list {
		c := &cable{}
		c.Proxy = natstest.StartProxy(r.world.t, n.url(), func(string) bool { return c.turn.Add(37)%100 < c.loss.Load() })
		one.cables, urls = append(one.cables, c), append(urls, c.URL())
	}
	one.environ = append(environ[:len(environ):len(environ)], "NATS__URL="+strings.Join(urls, ","))
	one.up()
	return one
}

// up starts the tier, or starts it again. An edge gets another port.
func (o *tier) up() {
	o.t.world.t.Helper()
	o.process = startProcess(o.t.world.t, o.kind, o.environ)
	o.mu.Lock()
	o.at = o.http
	o.mu.Unlock()
}

// address is where clients find an edge.
func (o *tier) address() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.at
}

// awaitReady waits until all tiers are.
func (r *trial) awaitReady() {
	r.world.t.Helper()
	for _, o := range append(r.ingests[:len(r.ingests):len(r.ingests)], r.edges...) {
		eventually(r.world.t, o.kind+" is ready", func() bool { return isReady(o.process) })
	}
}

// awaitStreams waits until each stream has a leader and all its replicas are up to date.
func (r *trial) awaitStreams() {
	r.world.t.Helper()
	whole := map[int]bool{}
	eventually(r.world.t, "streams are whole", func() bool {
		for shard := range trialShards {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			s, err := r.cluster.js.Stream(ctx, subject.Stream(shard))
			cancel()
			if err != nil {
				return false
			}
			if at := s.CachedInfo().Cluster; len(r.cluster.list) == 1 || at != nil && allCurrent(at, len(r.cluster.list)) {
				whole[shard] = true // one that lags for a moment later does not matter
			}
		}
		return len(whole) == trialShards
	})
}

// sequences is the sum of the last sequences of all streams; -1 if it cannot be told now.
func (r *trial) sequences() (sum int64) {
	for shard := range trialShards {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		s, err := r.cluster.js.Stream(ctx, subject.Stream(shard))
		cancel()
		if err != nil {
			return -1
		}
		sum += int64(s.CachedInfo().State.LastSeq)
	}
	return sum
}

// flow waits until n more records are in Kafka.
func (r *trial) flow(n uint64) {
	r.world.t.Helper()
	until := r.load.acked.Load() + n
	eventually(r.world.t, "records come into Kafka", func() bool { return r.load.acked.Load() >= until })
}

// delivered says whether every application's sockets get something in that time.
func (r *trial) delivered(within time.Duration) bool {
	from := time.Now()
	return holdsWithin(within, func() bool { return r.clients.fresh(from) })
}

// soon is whether ok holds within some patience.
func soon(ok func() bool) bool { return holdsWithin(patience, ok) }

func holdsWithin(d time.Duration, ok func() bool) bool {
	for end := time.Now().Add(d); time.Now().Before(end); <-time.After(20 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return false
}

// judge ends the load, waits until everything has come that will, reads everything anew, and
// has the oracle look at it.
func (r *trial) judge() *oracle.Verdict {
	r.world.t.Helper()
	r.load.stop()
	truth := r.load.truth()
	v := r.settle(truth, "the load has ended")
	for range r.edges {
		r.clients.addLate(r.random)
	}
	if late := r.settle(truth, "everything was asked for again"); len(late.Counts) >= len(v.Counts) {
		v = late
	}
	r.clients.stop()
	return truth.Judge(r.clients.received())
}

// settle looks again and again until nothing is missing, for as long as something may still come.
func (r *trial) settle(truth *oracle.Truth, what string) (v *oracle.Verdict) {
	r.world.t.Helper()
	began, last, still := time.Now(), 0, time.Now()
	for ; ; <-time.After(500 * time.Millisecond) {
		v = truth.Judge(r.clients.received())
		if v.Events != last {
			last, still = v.Events, time.Now()
		}
		quiet := time.Since(still)
		if quiet > 1500*time.Millisecond && v.Counts[oracle.Hole] == 0 || quiet > ackWait+10*time.Second || time.Since(began) > 2*patience {
			r.world.t.Logf("%s: nothing more comes after %.1f s: %v", what, time.Since(began).Seconds(), v)
			return v
		}
	}
}

// tell prints what helps to understand what went wrong.
func (r *trial) tell() {
	r.world.t.Helper()
	for i, o := range r.ingests {
		r.world.t.Logf("ingest %d has %.0f partitions; %.0f records read, %.0f published, %.0f in its window; %.0f behind Kafka", i,
			r.total(o.health, "canopy_ingest_partitions"), r.total(o.health, "canopy_ingest_records_read_total"),
			r.total(o.health, "canopy_ingest_records_published_total"), r.total(o.health, "canopy_ingest_window_records"), r.total(o.health, "canopy_ingest_lag_records"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	groups, err := r.admin.DescribeGroups(ctx, r.prefix)
	if err != nil {
		r.world.t.Log(err)
	}
	for _, g := range groups {
		r.world.t.Logf("Kafka's group is %s, with %d members", g.State, len(g.Members))
	}
	for i, o := range r.ingests {
		r.world.t.Logf("ingest %d: %s", i, o.stacks("canopy/ingest/internal/consume", "groupConsumer"))
	}
	for _, o := range slices.Concat(r.ingests, r.edges) {
		text := o.text()
		r.world.t.Logf("%s said last: %s", o.kind, text[max(0, len(text)-1500):])
	}
}

// stacks are those of the process's goroutines in which one of some names is.
func (p *process) stacks(of ...string) string {
	response, err := http.Get("http://" + p.health + "/debug/pprof/goroutine?debug=2")
	if err != nil {
		return err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	all, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for stack := range strings.SplitSeq(string(all), "\n\n") {
		if slices.ContainsFunc(of, func(name string) bool { return strings.Contains(stack, name) }) {
			b.WriteString("\n" + stack + "\n")
		}
	}
	return b.String()
}
