//go:build linux

package e2e

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/coder/websocket"

	"canopy/shared/subject"
)

// fault is something that can be done to a part of a trial. begin does it to some of the part's
// processes, and what it gives ends it, and tells how it is known to have happened.
type fault struct {
	name  string
	part  string // at most one fault of a part is under way
	begin func(r *trial, on []int) (end func() (proof string, held bool))

	// alone says that it waits for a moment that does not come under some other faults.
	alone bool

	// loaded says that it waits for records that come into Kafka.
	loaded bool

	// loses says that what NATS has acknowledged may be gone, forgets that Kafka need not bring
	// it back: then gap events may name records for good.
	loses, forgets bool
}

// parts of a trial
const (
	atNodes   = "nodes"
	atIngests = "ingests"
	atEdges   = "edges"
	atKafka   = "kafka"
)

// allFaults are those that there are. The clocks are not among them: nothing here steps the clock
// of a single Go program.
var allFaults = []fault{
	{name: "node-kill", part: atNodes, begin: (*trial).killNodes},
	{name: "node-pause", part: atNodes, begin: (*trial).pauseNodes},
	{name: "routes-cut", part: atNodes, begin: (*trial).cutRoutes},
	{name: "routes-slow", part: atNodes, begin: (*trial).slowRoutes},
	{name: "disk-full", part: atNodes, loaded: true, begin: (*trial).fillDisks},
	{name: "store-rollback", part: atNodes, loaded: true, loses: true, begin: (*trial).putStoresBack},
	{name: "store-truncate", part: atNodes, loses: true, begin: (*trial).truncateStores},
	{name: "store-flip", part: atNodes, loses: true, begin: (*trial).flipBits},
	{name: "streams-delete", part: atNodes, loses: true, forgets: true, begin: (*trial).deleteStreams},
	{name: "ingest-kill", part: atIngests, begin: func(r *trial, on []int) func() (string, bool) { return r.killTiers(r.ingests, on) }},
	{name: "ingest-kill-uncommitted", part: atIngests, alone: true, begin: (*trial).killUncommitted},
	{name: "ingest-pause", part: atIngests, begin: func(r *trial, on []int) func() (string, bool) { return r.pauseTiers(r.ingests, on) }},
	{name: "ingest-cut", part: atIngests, begin: func(r *trial, on []int) func() (string, bool) { return r.cutTiers(r.ingests, on) }},
	{name: "ingest-slow", part: atIngests, begin: func(r *trial, on []int) func() (string, bool) { return r.slowTiers(r.ingests, on) }},
	{name: "ingest-lossy", part: atIngests, begin: func(r *trial, on []int) func() (string, bool) { return r.losePackets(r.ingests, on) }},
	{name: "edge-kill", part: atEdges, begin: func(r *trial, on []int) func() (string, bool) { return r.killTiers(r.edges, on) }},
	{name: "edge-kill-replaying", part: atEdges, alone: true, begin: (*trial).killReplaying},
	{name: "edge-kill-in-flight", part: atEdges, alone: true, begin: (*trial).killInFlight},
	{name: "edge-pause", part: atEdges, begin: func(r *trial, on []int) func() (string, bool) { return r.pauseTiers(r.edges, on) }},
	{name: "edge-cut", part: atEdges, begin: func(r *trial, on []int) func() (string, bool) { return r.cutTiers(r.edges, on) }},
	{name: "edge-slow", part: atEdges, begin: func(r *trial, on []int) func() (string, bool) { return r.slowTiers(r.edges, on) }},
	{name: "edge-lossy", part: atEdges, begin: func(r *trial, on []int) func() (string, bool) { return r.losePackets(r.edges, on) }},
	{name: "kafka-kill", part: atKafka, begin: (*trial).killKafka},
	{name: "kafka-cut", part: atKafka, begin: (*trial).cutKafka},
	{name: "kafka-not-leader", part: atKafka, begin: (*trial).denyLeadership},
	{name: "topic-again", part: atKafka, begin: (*trial).makeTopicAgain},
}

// killTiers kills some tiers at any moment, and starts them again.
func (r *trial) killTiers(list []*tier, on []int) func() (string, bool) {
	killed := 0
	for _, i := range on {
		if list[i].kill() {
			killed++
		}
	}
	return func() (string, bool) {
		for _, i := range on {
			list[i].up()
		}
		return fmt.Sprintf("%d ended by SIGKILL", killed), killed == len(on)
	}
}

// killUncommitted kills ingests whose events NATS has, while Kafka does not know it.
func (r *trial) killUncommitted(on []int) func() (string, bool) {
	r.t.Helper()
	before := r.dropped(r.ingests, on)
	r.setLoss(r.ingests, on, 100)
	waiting := soon(func() bool {
		for _, i := range on {
			if r.metric(r.ingests[i].health, "canopy_ingest_window_records") < 5 {
				return false
			}
		}
		return r.dropped(r.ingests, on) > before
	})
	end := r.killTiers(r.ingests, on)
	r.setLoss(r.ingests, on, 0)
	return func() (string, bool) {
		proof, held := end()
		repeats := func() float64 {
			n := 0.0
			for _, one := range r.ingests {
				n += r.metric(one.health, "canopy_ingest_duplicates_total")
			}
			return n
		}
		held = held && waiting && soon(func() bool { return repeats() > 0 })
		return fmt.Sprintf("%s, between acknowledgement and commit: %.0f records were published twice", proof, repeats()), held
	}
}

// killReplaying kills edges while a socket on each of them reads from the log.
func (r *trial) killReplaying(on []int) func() (string, bool) {
	r.t.Helper()
	slow := r.slowTiers(r.edges, on)
	reading, had, all := true, 0, 0
	var readers []*client
	for _, i := range on {
		one := &client{name: "reading all, cut off", edge: i, query: "since=earliest", resumes: true}
		r.clients.add(one)
		readers = append(readers, one)
	}
	for _, one := range readers {
		count := func() int {
			if got := one.snapshot(); len(got) > 0 {
				return len(got[0].Messages)
			}
			return 0
		}
		reading = soon(func() bool { return count() > 0 }) && reading
		had += count()
		all += int(r.load.acked.Load()) / trialApplications
	}
	end := r.killTiers(r.edges, on)
	return func() (string, bool) {
		_, _ = slow()
		proof, held := end()
		return fmt.Sprintf("%s, when sockets that read everything had %d of about %d events", proof, had, all), held && reading && had < all
	}
}

// killInFlight kills edges that have given events to members who have not acknowledged them.
func (r *trial) killInFlight(on []int) func() (string, bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var deaf []*websocket.Conn
	for _, i := range on {
		conn, _, err := websocket.Dial(ctx, "ws://"+r.edges[i].http+r.path(applicationName(0), "")+"?group_id=g", nil)
		if err != nil {
			r.t.Fatalf("join a group: %v", err)
		}
		deaf = append(deaf, conn)
	}
	inFlight := 0.0
	waiting := true
	for _, i := range on {
		waiting = soon(func() bool { return r.total(r.edges[i].health, "canopy_edge_group_in_flight") >= 3 }) && waiting
		inFlight += r.total(r.edges[i].health, "canopy_edge_group_in_flight")
	}
	end := r.killTiers(r.edges, on)
	for _, conn := range deaf {
		_ = conn.CloseNow()
	}
	return func() (string, bool) {
		proof, held := end()
		return fmt.Sprintf("%s with %.0f events of groups in flight", proof, inFlight), held && waiting
	}
}

// pauseTiers stops some tiers.
func (r *trial) pauseTiers(list []*tier, on []int) func() (string, bool) {
	var stopped []*process
	for _, i := range on {
		stopped = append(stopped, list[i].process)
	}
	return r.pause(stopped)
}

func (r *trial) pauseNodes(on []int) func() (string, bool) {
	r.awaitStreams()
	var stopped []*process
	for _, i := range on {
		stopped = append(stopped, r.cluster.list[i].process)
	}
	return r.pause(stopped)
}

func (r *trial) pause(list []*process) func() (string, bool) {
	for _, p := range list {
		p.signal(syscall.SIGSTOP)
	}
	began := time.Now()
	held := true
	for _, p := range list {
		held = soon(func() bool { return p.state() == "T" }) && held
	}
	return func() (string, bool) {
		for _, p := range list {
			held = p.state() == "T" && held
			p.signal(syscall.SIGCONT)
		}
		return fmt.Sprintf("%d in state T for %.1f s", len(list), time.Since(began).Seconds()), held
	}
}

// killNodes kills some nodes, and starts them again with what they have stored.
func (r *trial) killNodes(on []int) func() (string, bool) {
	r.awaitStreams()
	held := true
	for _, i := range on {
		held = r.cluster.list[i].kill() && held
	}
	return func() (string, bool) {
		for _, i := range on {
			r.cluster.up(r.cluster.list[i])
		}
		return fmt.Sprintf("%d ended by SIGKILL", len(on)), held
	}
}

// deleteStreams deletes all streams under ingests that make them again.
func (r *trial) deleteStreams([]int) func() (string, bool) {
	r.t.Helper()
	created := func(shard int) time.Time {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		s, err := r.cluster.js.Stream(ctx, subject.Stream(shard))
		if err != nil {
			return time.Time{}
		}
		return s.CachedInfo().Created
	}
	before := map[int]time.Time{}
	for shard := range trialShards {
		before[shard] = created(shard)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := r.cluster.js.DeleteStream(ctx, subject.Stream(shard))
		cancel()
		if err != nil {
			r.t.Fatalf("delete a stream: %v", err)
		}
	}
	return func() (string, bool) {
		held := true
		for shard, old := range before {
			held = soon(func() bool { return created(shard).After(old) }) && held
		}
		return fmt.Sprintf("%d streams are other ones", len(before)), held
	}
}

// killKafka kills the broker, and starts it again with what it has stored.
func (r *trial) killKafka([]int) func() (string, bool) {
	held := r.broker.kill()
	return func() (string, bool) {
		r.broker.up()
		return "ended by SIGKILL", held
	}
}

// cutKafka ends all connections to the broker.
func (r *trial) cutKafka([]int) func() (string, bool) {
	n := r.broker.tell("/cut")
	return func() (string, bool) {
		n += r.broker.tell("/cut")
		return fmt.Sprintf("%d connections ended", n), n > 0
	}
}

// denyLeadership has the broker say that another one leads.
func (r *trial) denyLeadership([]int) func() (string, bool) {
	before := r.broker.tell("/deny?n=40")
	return func() (string, bool) {
		held := soon(func() bool { return r.broker.tell("/deny") > before })
		return fmt.Sprintf("%d requests denied", r.broker.tell("/deny")-before), held
	}
}

// makeTopicAgain deletes an application's topic, and makes it anew.
func (r *trial) makeTopicAgain([]int) func() (string, bool) {
	had, next := r.load.again(r.random.IntN(trialApplications))
	return func() (string, bool) {
		held := soon(next)
		return fmt.Sprintf("%d records were in the old topic, and the new one's come", had), held
	}
}
