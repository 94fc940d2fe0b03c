package gateway

import (
	"context"
	"encoding/json"
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

// spread is how many members each edge has.
var spread = []int{5, 2, 1}

// shares are what members got of some events, edge by edge.
type shares []int

// expectEven fails by chance in fewer than one of 300,000 calls: an edge's number of
// events is binomial, and the statistic over the three edges has two degrees of freedom,
// so that its p is exp(-x/2). It fails at p < 1e-6, and at 6σ (2e-9 for each edge).
func (s shares) expectEven(t *testing.T, what string) {
	t.Helper()
	const hopeless, sigmas = 1e-6, 6.0
	total, chi, worst := 0, 0.0, 0.0
	for _, n := range s {
		total += n
	}
	first := 0
	for _, members := range spread {
		mine := s[first : first+members]
		first += members
		n := 0
		for _, share := range mine {
			n += share
		}
		p, all := float64(members)/float64(len(s)), float64(total)
		off := float64(n) - p*all
		chi += off * off / (p * all)
		worst = max(worst, math.Abs(off)/math.Sqrt(all*p*(1-p)))
		if most, least := slices.Max(mine), slices.Min(mine); most > least+1 {
			t.Errorf("%s: members of one edge got %v", what, mine)
		}
	}
	p := math.Exp(-chi / 2)
	t.Logf("%s: members got %v of %d events, worst %.2fσ, chi-square %.2f, p = %.4f", what, []int(s), total, worst, chi, p)
	if p < hopeless || worst > sigmas {
		t.Errorf("%s: edges of %v members got uneven shares", what, spread)
	}
}

func TestMembersSpreadOverEdgesOfAClusterGetEqualShares(t *testing.T) {
	const events, atOnce, tries = 8_000, 200, 5
	cluster := natstest.StartCluster(t)
	edges := onCluster(t, cluster, nil)
	l := newLedger(t)
	members := 0
	for e, n := range spread {
		for range n {
			l.add(members, edges[e].dial("/open-app?group_id=g", nil))
			members++
		}
	}
	for e, n := range spread {
		edges[e].awaitMembers(n)
	}
	slow := func() (n float64) {
		for _, e := range edges {
			n += e.metric("canopy_edge_group_slow_total")
		}
		return n
	}
	s := edges[0]
	g := s.awaitGroup("g", "it is there", func(g group.Status) bool { return g.Members == spread[0] })
	stream := subject.Stream(subject.Shard("open-app", shards))
	before, published := make(shares, members), 0
	round := func() (got shares) {
		for range events / atOnce { // so that no member waits long behind others on a busy machine
			s.publishMany("open-app", "", published, atOnce)
			published += atOnce
			l.await(published)
		}
		got = make(shares, members)
		for m := range got {
			got[m] = l.share(m) - before[m]
			before[m] += got[m]
		}
		return got
	}
	for _, node := range []string{"node-0", "node-1", "node-2"} {
		lead(t, s.js, stream, g.Consumer, node)
		for try := range tries {
			was := slow()
			got := round()
			// A member that the machine keeps waiting for 250 ms is passed over, rightly.
			if slow() == was || try == tries-1 {
				got.expectEven(t, node+" leads")
				break
			}
		}
	}
	_, repeats := l.counts()
	t.Logf("%d events came again, as leaders changed", repeats)
	if repeats > len(cluster.Nodes)*groupWindow {
		t.Errorf("%d events came again, more than were in flight", repeats)
	}
}
