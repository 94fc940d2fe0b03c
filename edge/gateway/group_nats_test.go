package gateway

import (
	"context"
	"testing"
	"time"

	"canopy/edge/internal/group"
	"canopy/shared/config"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

// groupWindow is how many events of a group may be in flight.
const groupWindow = 1024

func TestAGroupLosesNothingWhenNodesRestartAndItsLeaderStepsDown(t *testing.T) {
	const stepdowns = 3
	cluster := natstest.StartCluster(t)
	edges := onCluster(t, cluster, func(cfg *config.Config) { cfg.Edge.Groups.InFlight = groupWindow })
	l := newLedger(t)
	for i := range 6 {
		l.add(i, edges[i%3].dial("/open-app?group_id=g", nil))
	}
	s := edges[0]
	g := s.awaitGroup("g", "it is there", func(g group.Status) bool { return g.Members == 2 })
	shard := subject.Shard("open-app", shards)
	load := s.startPublishers(8, "open-app")
	load.await(t, 200)
	if _, repeats := l.counts(); repeats != 0 {
		t.Errorf("%d events came again before any fault", repeats)
	}
	for range stepdowns {
		_, before := l.counts()
		was := consumerLeader(s, g.Consumer)
		if _, err := s.js.Conn().Request("$JS.API.CONSUMER.LEADER.STEPDOWN."+g.Stream+"."+g.Consumer, nil, patience); err != nil {
			t.Fatal(err)
		}
		until(t, "another node leads the consumer", func() bool { now := consumerLeader(s, g.Consumer); return now != "" && now != was })
		load.await(t, 200)
		_, repeats := l.counts()
		t.Logf("step-down: %d events came again", repeats-before)
	}
	faults := stepdowns
	for i, node := range cluster.Nodes {
		n, before := l.counts()
		node.Down()
		began := time.Now()
		cluster.AwaitLeader(shard, node)
		l.await(n + groupWindow + 200)
		gap := time.Since(began)
		node.Up()
		cluster.AwaitReplicas(s.js, shard)
		load.await(t, 200)
		_, repeats := l.counts()
		t.Logf("node %d down: more came than was in flight after %.1f s; %d events came again until it was back", i, gap.Seconds(), repeats-before)
		faults++
	}
	repeats := l.expect(load)
	t.Logf("%d events, %d came again in %d faults", load.total.Load(), repeats, faults)
	if repeats > faults*groupWindow {
		t.Errorf("%d events came again in %d faults, more than were in flight", repeats, faults)
	}
}

// consumerLeader is the node that leads a group's consumer, empty if none does.
func consumerLeader(s *stack, consumer string) string {
	ctx, cancel := context.WithTimeout(context.Background(), patience/10)
	defer cancel()
	c, err := s.js.PushConsumer(ctx, subject.Stream(subject.Shard("open-app", shards)), consumer)
	if err != nil || c.CachedInfo().Cluster == nil {
		return ""
	}
	return c.CachedInfo().Cluster.Leader
}

func TestAnEdgeCutOffFromNATSForLongerThanTheAckWaitLosesNothing(t *testing.T) {
	const ackWait = 4 * time.Second
	short := func(cfg *config.Config) {
		cfg.Edge.Groups.AckWait, cfg.Edge.Groups.InFlight = ackWait, groupWindow
	}
	var k *link
	s := startEdge(t, func(cfg *config.Config) {
		k = newLink(t, cfg.NATS.URL[len("nats://"):])
		cfg.NATS.URL = "nats://" + k.listener.Addr().String()
		short(cfg)
	})
	other := s.another(short)
	l := newLedger(t)
	for i := range 4 {
		l.add(i, []*stack{s, other}[i%2].dial("/open-app?group_id=g", nil))
	}
	load := s.startPublishers(4, "open-app")
	for _, how := range []string{"cut", "lost"} {
		load.await(t, 500)
		_, before := l.counts()
		if how == "cut" {
			k.refuses.Store(true)
			k.cut()
		} else {
			k.lost.Store(true) // neither side hears of it
		}
		n, _ := l.counts()
		began := time.Now()
		until(t, "the ack wait is over, and the other edge has all", func() bool {
			now, _ := l.counts()
			return time.Since(began) > 2*ackWait && now > n+groupWindow
		})
		k.refuses.Store(false)
		if how == "lost" {
			k.lost.Store(false)
			k.cut()
		}
		gone := [2]int{l.share(0), l.share(2)}
		until(t, "the edge takes part again", func() bool { return l.share(0) > gone[0]+20 && l.share(2) > gone[1]+20 })
		_, repeats := l.counts()
		t.Logf("%s: %d events came again", how, repeats-before)
		if repeats-before > groupWindow {
			t.Errorf("%s: %d events came again, more than were in flight", how, repeats-before)
		}
	}
	t.Logf("%d events came again", l.expect(load))
}
