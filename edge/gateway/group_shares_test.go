package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"canopy/edge/internal/group"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

// lead makes node lead a stream and one of its consumers.
func lead(t *testing.T, js jetstream.JetStream, stream, consumer, node string) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"placement": map[string]string{"preferred": node}})
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range []struct {
		stepDown string
		leader   func(context.Context) (string, error)
	}{
		{"$JS.API.STREAM.LEADER.STEPDOWN." + stream, func(ctx context.Context) (string, error) {
			s, err := js.Stream(ctx, stream)
			if err != nil {
				return "", err
			}
			return s.CachedInfo().Cluster.Leader, nil
		}},
		{"$JS.API.CONSUMER.LEADER.STEPDOWN." + stream + "." + consumer, func(ctx context.Context) (string, error) {
			c, err := js.PushConsumer(ctx, stream, consumer)
			if err != nil || c.CachedInfo().Cluster == nil {
				return "", err
			}
			return c.CachedInfo().Cluster.Leader, nil
		}},
	} {
		until(t, node+" leads", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), patience/4)
			defer cancel()
			now, err := what.leader(ctx)
			if err == nil && now == node {
				return true
			}
			_, _ = js.Conn().Request(what.stepDown, body, patience/4) // tried again
			return false
		})
	}
}

// TestMembersSpreadOverEdgesOfAClusterGetEqualShares fails by chance in fewer than one of
// 100,000 runs: with edges of 5, 2 and 1 members, an edge's number of events is binomial,
// and the statistic over the three edges has two degrees of freedom, so that its p is
// exp(-x/2). Each of the three rounds fails at p < 1e-6 and at 6σ (2e-9 for each edge).
func TestMembersSpreadOverEdgesOfAClusterGetEqualShares(t *testing.T) {
	const events, hopeless, sigmas = 16_000, 1e-6, 6.0
	spread := []int{5, 2, 1}
	cluster := natstest.StartCluster(t)
	edges := onCluster(t, cluster, nil)
	l := newLedger(t)
	var edgeOf []int
	for e, members := range spread {
		for range members {
			l.add(len(edgeOf), edges[e].dial("/open-app?group_id=g", nil))
			edgeOf = append(edgeOf, e)
		}
	}
	s := edges[0]
	g := s.awaitGroup("g", "it is there", func(g group.Status) bool { return g.Members == spread[0] })
	stream := subject.Stream(subject.Shard("open-app", shards))
	before := make([]int, len(edgeOf))
	for round, node := range []string{"node-0", "node-1", "node-2"} {
		lead(t, s.js, stream, g.Consumer, node)
		s.publishMany("open-app", "", round*events, events)
		l.await((round + 1) * events)
		if _, repeats := l.counts(); repeats != 0 {
			t.Fatalf("%d events came again", repeats)
		}
		share, perEdge := make([]int, len(edgeOf)), make([]int, len(spread))
		for m, e := range edgeOf {
			share[m] = l.share(m) - before[m]
			before[m] += share[m]
			perEdge[e] += share[m]
		}
		chi, worst := 0.0, 0.0
		for e, n := range perEdge {
			p := float64(spread[e]) / float64(len(edgeOf))
			off := float64(n) - p*events
			chi += off * off / (p * events)
			worst = max(worst, math.Abs(off)/math.Sqrt(events*p*(1-p)))
		}
		p := math.Exp(-chi / 2)
		t.Logf("%s leads: members got %v, edges %v, worst %.2fσ, chi-square %.2f, p = %.4f", node, share, perEdge, worst, chi, p)
		if p < hopeless || worst > sigmas {
			t.Errorf("with %s leading, edges of %v members got %v", node, spread, perEdge)
		}
		if most, least := slices.Max(share[:spread[0]]), slices.Min(share[:spread[0]]); most > least+1 {
			t.Errorf("members of one edge got %v", fmt.Sprint(share[:spread[0]]))
		}
	}
}
