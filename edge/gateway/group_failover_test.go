package gateway

import (
	"fmt"
	"testing"
	"time"

	"canopy/edge/internal/group"
	"canopy/shared/config"
	"canopy/shared/natstest"
)

// TestAGroupOutlivesTheNodeOfItsConsumer takes away the node that leads the consumer, with
// three copies of the group's place and with one. With one copy what was acknowledged
// after the last look may come again, too.
func TestAGroupOutlivesTheNodeOfItsConsumer(t *testing.T) {
	for _, copies := range []int{3, 1} {
		t.Run(fmt.Sprint(copies, " copies"), func(t *testing.T) {
			cluster := natstest.StartCluster(t)
			edges := onCluster(t, cluster, func(cfg *config.Config) { cfg.Edge.Groups.Replicas = copies })
			l := newLedger(t)
			for i := range 6 {
				l.add(i, edges[i%3].dial("/open-app?group_id=g", nil))
			}
			s := edges[0]
			g := s.awaitGroup("g", "it is there", func(g group.Status) bool { return g.Members == 2 })
			load := s.startPublishers(4, "open-app")
			load.await(t, 1000)
			for _, e := range edges {
				e.awaitGroup("g", "the edge knows what is acknowledged", func(g group.Status) bool { return copies != 1 || g.AckFloor > 500 })
			}
			had, before := l.counts()
			if before != 0 {
				t.Errorf("%d events came again before the fault", before)
			}
			led := consumerLeader(s, g.Consumer)
			var node *natstest.Server
			for i, n := range cluster.Nodes {
				if led == fmt.Sprintf("node-%d", i) {
					node = n
				}
			}
			if node == nil {
				t.Fatalf("%q leads the consumer", led)
			}
			began := time.Now()
			node.Down()
			until(t, "far more comes than was on the way", func() bool { n, _ := l.counts(); return n > had+4*groupWindow })
			gap := time.Since(began)
			_, away := l.counts()
			node.Up()
			load.await(t, 500)
			repeats := l.expect(load)
			failovers := 0.0
			for _, e := range edges {
				failovers += e.metric("canopy_edge_group_failovers_total")
			}
			t.Logf("%d copies: %d more events after %.1f s, %d came again until the node was back, %d of %d in all, %v failovers",
				copies, 4*groupWindow, gap.Seconds(), away, repeats, load.total.Load(), failovers)
			if now := consumerLeader(s, g.Consumer); copies == 1 && (failovers == 0 || now == led) {
				t.Errorf("%s leads the consumer after %v failovers, %s did before", now, failovers, led)
			}
			if copies == 1 {
				return // what was acknowledged after the last look comes again, and a node that is back sends from its old copy
			}
			if away > groupWindow {
				t.Errorf("%d events came again, want at most %d", away, groupWindow)
			}
		})
	}
}
