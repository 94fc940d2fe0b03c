package gateway

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"canopy/shared/config"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

// publishers publish events of one application, each its own run of numbers from 1 on,
// until they are told to stop.
type publishers struct {
	total atomic.Int64
	acked chan struct{} // has room for one: total has grown
	calm  chan struct{} // closed to tell them
	all   sync.WaitGroup
	last  []int // of each run, when all have ended
}

// startPublishers begins. When all is calm, each publisher adds a few events, so that
// others follow every one that was published during a fault.
func (s *stack) startPublishers(n int, application string) *publishers {
	p := &publishers{acked: make(chan struct{}, 1), calm: make(chan struct{}), last: make([]int, n)}
	for run := range n {
		p.all.Go(func() {
			for left := 20; left > 0; {
				select {
				case <-p.calm:
					left--
				default:
				}
				p.last[run]++
				if err := s.publishAs(fmt.Sprintf("%d/%d", run, p.last[run]), application, "", p.last[run]); err != nil {
					s.t.Error(err)
					return
				}
				p.total.Add(1)
				select {
				case p.acked <- struct{}{}:
				default:
				}
			}
		})
	}
	return p
}

// await waits until n more events were acknowledged.
func (p *publishers) await(t *testing.T, n int64) {
	t.Helper()
	before, limit := p.total.Load(), time.After(patience)
	for p.total.Load() < before+n {
		select {
		case <-p.acked:
		case <-limit:
			t.Fatalf("only %d events were acknowledged in %s", p.total.Load()-before, patience)
		}
	}
}

// expectRuns reads every event once, in the order of the log, and each run in its own.
func (p *publishers) expectRuns(t *testing.T, c *websocket.Conn) {
	t.Helper()
	next, cursor := make([]int, len(p.last)), ""
	for range p.total.Load() {
		r := read(t, c)
		var run, n int
		if _, err := fmt.Sscanf(r.ID, "%d/%d", &run, &n); err != nil {
			t.Fatalf("read id %q: %v", r.ID, err)
		}
		if next[run]++; n != next[run] || r.Cursor <= cursor {
			t.Fatalf("got event %s, want %d/%d; its cursor is %s, after %s", r.ID, run, next[run], r.Cursor, cursor)
		}
		cursor = r.Cursor
	}
}

func TestLeaderChangesAndNodesThatGoLoseRepeatAndReorderNothing(t *testing.T) {
	cluster := natstest.StartCluster(t)
	js := cluster.Streams(shards)
	s := startEdge(t, func(cfg *config.Config) { cfg.NATS.URL = cluster.URL() })
	s.js = js
	const app = "open-app"
	shard := subject.Shard(app, shards)
	sockets := []*websocket.Conn{s.dial("/"+app, nil), s.dial("/"+app, nil)}
	load := s.startPublishers(8, app)
	const stepdowns, losses = 4, 2
	for range stepdowns {
		load.await(t, 100)
		leader := cluster.AwaitLeader(shard, nil)
		cluster.StepDown(js.Conn(), shard)
		cluster.AwaitLeader(shard, leader)
	}
	for range losses {
		load.await(t, 100)
		leader := cluster.AwaitLeader(shard, nil)
		leader.Down()
		cluster.AwaitLeader(shard, leader)
		load.await(t, 100)
		leader.Up()
		cluster.AwaitReplicas(js, shard)
	}
	close(load.calm)
	load.all.Wait()
	for _, c := range sockets {
		load.expectRuns(t, c)
	}
	// Changes that come close together may share a look at the stream.
	if n := s.metric("canopy_edge_feed_repairs_total"); n < losses {
		t.Errorf("the edge looked at the stream %v times, after %d leader changes", n, stepdowns+losses)
	}
}
