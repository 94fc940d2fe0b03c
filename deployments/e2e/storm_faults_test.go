//go:build linux

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"canopy/shared/natstest"
)

// killNodes kills each node in turn, and starts it again.
func (s *storm) killNodes() {
	s.t.Helper()
	for _, n := range s.cluster.list {
		s.awaitReplicas()
		led, _ := s.cluster.leaders(s.size.shards)
		clients, lost := n.monitor("varz", "connections")[0], s.disconnects()
		spent, killed := cpu(n.process), time.Now()
		if !n.kill() {
			s.t.FailNow()
		}
		s.cluster.awaitLeaders(s.size.shards, n)
		elected := time.Since(killed)
		eventually(s.t, "who was connected to the node has noticed", func() bool { return clients == 0 || s.disconnects() > lost })
		s.calm(n.name + " was killed")
		s.t.Logf("          SIGKILL of %s: it led %d of %d streams and had %d connections, of which the tiers lost %d; new leaders after %v; it had used CPU %s",
			n.name, led[n.name], s.size.shards, clients, s.disconnects()-lost, elected.Round(time.Millisecond), spent)
		down := time.Since(killed)
		s.cluster.up(n)
		s.awaitReplicas()
		s.calm(fmt.Sprintf("%s is back after %.1f s", n.name, down.Seconds()))
		if clients == 0 && led[n.name] == 0 {
			s.t.Errorf("%s led no stream and had no connections: its death was no fault", n.name)
		}
	}
}

// awaitReplicas waits until every node has had all of every stream: before that the death of
// another one would be no fault that NATS promises to survive.
func (s *storm) awaitReplicas() {
	s.t.Helper()
	had := map[int]bool{} // a node that lags for a moment in one stream may not lag in others
	for began := time.Now(); ; <-time.After(100 * time.Millisecond) {
		_, whole := s.cluster.leaders(s.size.shards)
		for _, shard := range whole {
			had[shard] = true
		}
		if len(had) == s.size.shards {
			return
		}
		s.seen()
		if time.Since(began) > s.size.calm {
			s.tell()
			s.t.Fatalf("replicas are not up to date after %v", s.size.calm)
		}
	}
}

// disconnects is how many connections to NATS all tiers have lost.
func (s *storm) disconnects() (n int) {
	for _, p := range append(s.edges, s.ingests...) {
		n += p.disconnects()
	}
	return n
}

// cutEdge keeps edge 1 from all nodes.
func (s *storm) cutEdge() {
	s.t.Helper()
	edge := s.edges[1]
	published, repaired := s.sum("canopy_ingest_records_published_total", s.ingests...), s.sum("canopy_edge_feed_repaired_events_total", edge)
	had := s.sum("canopy_edge_events_total", edge)
	for _, p := range s.cables {
		p.Refuse()
	}
	cut := time.Now()
	eventually(s.t, "the edge that was cut off is not ready", func() bool { return !isReady(edge) })
	<-time.After(s.size.cut - time.Since(cut))
	eventually(s.t, "the edge has tried to come back", func() bool {
		return slices.ContainsFunc(s.cables, func(p *natstest.Proxy) bool { return p.Refused() > 0 })
	})
	missed, came, readied := s.sum("canopy_ingest_records_published_total", s.ingests...)-published, s.sum("canopy_edge_events_total", edge)-had, isReady(edge)
	refused := 0
	for _, p := range s.cables {
		refused += p.Admit()
	}
	lasted := time.Since(cut)
	s.calm("edge 1 was cut off from NATS")
	repaired = s.sum("canopy_edge_feed_repaired_events_total", edge) - repaired
	s.t.Logf("          edge 1 was cut off for %.1f s: %d connections refused, %.0f events stored meanwhile, %.0f had come to it, %.0f read from the stream afterwards",
		lasted.Seconds(), refused, missed, came, repaired)
	if readied || missed == 0 || repaired < missed/2 {
		s.t.Errorf("edge 1 was not cut off (ready: %v)", readied)
	}
}

// cutRoutes keeps all nodes from each other, so that none can store anything.
func (s *storm) cutRoutes() {
	s.t.Helper()
	before := s.cluster.refusedRoutes()
	s.cluster.cutRoutes()
	cut := time.Now()
	eventually(s.t, "the nodes are apart", func() bool { return s.cluster.countRoutes() == 0 })
	kafka, stored := s.load.all(), s.sum("canopy_ingest_records_published_total", s.ingests...)
	<-time.After(s.size.apart)
	stored = s.sum("canopy_ingest_records_published_total", s.ingests...) - stored
	kafka = s.load.all() - kafka
	// Nodes wait for longer and longer before they try again.
	eventually(s.t, "a node has tried to reach another one", func() bool { return s.cluster.refusedRoutes() > before })
	routes, lasted := s.cluster.countRoutes(), time.Since(cut)
	refused := s.cluster.joinRoutes() - before
	s.cluster.awaitLeaders(s.size.shards, nil)
	s.calm("routes between nodes were cut")
	s.t.Logf("          nodes were apart for %.1f s: %d routes, %d connections refused; %d records into Kafka meanwhile, %.0f into NATS",
		lasted.Seconds(), routes, refused, kafka, stored)
	if routes > 0 || kafka == 0 || stored > float64(kafka)/2 {
		s.t.Error("the nodes were not apart")
	}
}

// overflowClient stops edge 2 while many records of one application come, again and again,
// until its NATS client has to drop some when it goes on. That is too short for NATS to take
// the edge for a slow consumer.
func (s *storm) overflowClient() {
	s.t.Helper()
	const most = 30
	edge, size := s.edges[2], s.size.perSecond
	dropped := func() float64 { return s.sum("canopy_edge_nats_dropped_messages_total", edge) }
	stored := func() float64 { return s.sum("canopy_ingest_records_published_total", s.ingests...) }
	before, repaired, bursts := dropped(), s.sum("canopy_edge_feed_repaired_events_total", edge), 0
	for ; dropped() == before; bursts++ {
		if bursts == most {
			s.t.Fatalf("the client of edge 2 never overflowed in %d bursts of %d records", most, size)
		}
		edge.signal(syscall.SIGSTOP)
		enough := stored() + float64(size)
		select {
		case s.load.bursts <- size:
		case <-time.After(patience):
			s.t.Fatal("the load does not go on")
		}
		stopped := time.Now()
		for stored() < enough && time.Since(stopped) < 5*time.Second {
			<-time.After(10 * time.Millisecond)
		}
		edge.signal(syscall.SIGCONT)
		s.calm("a burst for edge 2")
	}
	s.t.Logf("          the client of edge 2 dropped messages in %.0f runs, after %d bursts of %d records; %.0f events read from the stream",
		dropped()-before, bursts, size, s.sum("canopy_edge_feed_repaired_events_total", edge)-repaired)
}

// freezeEdge stops edge 0 for so long that NATS takes it for a slow consumer and cuts it off.
// It needs more events than a small storm has: what the kernel takes is not slow.
func (s *storm) freezeEdge() {
	s.t.Helper()
	if s.size.frozen == 0 {
		s.t.Log("          no edge is frozen in a storm of this size: CANOPY_TEST_STORM=full does it")
		return
	}
	edge := s.edges[0]
	slow := func() (n int) {
		for _, one := range s.cluster.list {
			n += one.monitor("varz", "slow_consumers")[0]
		}
		return n
	}
	before, lost, repaired := slow(), edge.disconnects(), s.sum("canopy_edge_feed_repaired_events_total", edge)
	edge.signal(syscall.SIGSTOP)
	stopped := time.Now()
	eventually(s.t, "edge 0 is stopped", func() bool { return edge.state() == "T" })
	<-time.After(s.size.frozen)
	state, lasted := edge.state(), time.Since(stopped)
	cut := slow() - before
	edge.signal(syscall.SIGCONT)
	s.calm("edge 0 was frozen")
	repaired = s.sum("canopy_edge_feed_repaired_events_total", edge) - repaired
	s.t.Logf("          edge 0 was stopped for %.1f s (state %s): %d slow consumers cut off by NATS, it lost %d connections, %.0f events read from the stream",
		lasted.Seconds(), state, cut, edge.disconnects()-lost, repaired)
	if state != "T" || cut == 0 || repaired == 0 {
		s.t.Error("edge 0 was no slow consumer")
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("signal %s: %v", p.kind, err)
	}
}

// state is the process's state as proc(5) has it: T is stopped.
func (p *process) state() string {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	return fields[0]
}
