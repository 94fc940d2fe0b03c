package feed

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/shared/event"
	"canopy/shared/natstest"
)

// runHub runs a hub on these connections until the test ends.
func runHub(t *testing.T, feeds, requests *nats.Conn, change func(*Config)) *Hub {
	t.Helper()
	cfg := Config{Buffers: roomy, Workers: 2, Held: func() int64 { return 0 }}
	if change != nil {
		change(&cfg)
	}
	h := New(cfg, feeds, requests, zap.NewNop(), prometheus.NewRegistry())
	run(t, h)
	return h
}

// run runs a hub until the test ends.
func run(t *testing.T, h *Hub) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var hub sync.WaitGroup
	hub.Go(func() { _ = h.Run(ctx) })
	t.Cleanup(hub.Wait)
	t.Cleanup(cancel)
	await(t, "the streams are known", func() bool { return h.Ready() == nil })
}

// attach opens a socket for application "app".
func attach(t *testing.T, h *Hub, filter Filter, since Since) *fakeSocket {
	t.Helper()
	s := newFakeSocket(-1)
	if err := h.Attach(t.Context(), "app", filter, since, s, &s.Reader); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Detach)
	s.Release()
	return s
}

// publish stores events with these numbers in a stream of one shard, each at most once.
func publish(t *testing.T, js jetstream.JetStream, from, to int) {
	t.Helper()
	for n := from; n <= to; n++ {
		m := natstest.Message(1, "app", "odd", fmt.Sprintf(`{"n":%d}`, n))
		deadline := time.Now().Add(patience)
		for {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := js.PublishMsg(ctx, m, jetstream.WithMsgID(fmt.Sprint(n)))
			cancel()
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("publish event %d: %v", n, err)
			}
		}
	}
}

// gapsOf counts the gaps that a hub's clients were told of.
func gapsOf(t *testing.T, h *Hub) (n float64) {
	for _, reason := range []string{event.GapRetention, event.GapLog, event.GapFuture, event.GapSkipped} {
		n += count(t, h.stats.gaps.WithLabelValues(reason))
	}
	return n
}

func TestALeaderThatWasCutOffIsNotBelieved(t *testing.T) {
	cluster := natstest.StartCluster(t)
	cluster.Streams(1)
	old := cluster.AwaitLeader(0, nil)
	cut := 0
	for cluster.Nodes[cut] != old {
		cut++
	}
	rest := cluster.Nodes[(cut+1)%len(cluster.Nodes)]
	js, err := jetstream.New(rest.Connect())
	if err != nil {
		t.Fatal(err)
	}
	publish(t, js, 1, 20)
	apart := runHub(t, rest.Connect(), old.Connect(), nil) // its questions alone go to the old leader
	alone := runHub(t, old.Connect(), old.Connect(), nil)
	before := []*fakeSocket{attach(t, apart, Filter{}, Since{}), attach(t, alone, Filter{}, Since{})}
	odd := Filter{Channel: "odd", ByChannel: true}
	// The looks that come soon after the start are over.
	await(t, "all is quiet", func() bool { return count(t, apart.stats.looks) >= 2 && count(t, alone.stats.looks) >= 2 })

	cluster.Isolate(cut)
	cluster.AwaitLeader(0, old)
	publish(t, js, 21, 25)
	if !old.Leads(0) {
		t.Fatal("the old leader knows that it is none")
	}
	at := func(n uint64) Since {
		return Since{kind: fromCursor, cursor: event.Cursor{Log: apart.Log(0), Sequence: n}}
	}
	resumed := []*fakeSocket{attach(t, apart, odd, at(20)), attach(t, alone, odd, at(25))}
	f := alone.feeds["app"]
	tried := count(t, alone.stats.requests)
	await(t, "the old leader is asked", func() bool { return count(t, alone.stats.requests) > tried+3 })
	if !old.Leads(0) {
		t.Fatal("the old leader knows that it is none")
	}
	if c := resumed[1].Cursor(); c.Sequence != 25 || f.newest().Sequence != 20 {
		t.Errorf("the socket from the future stands at %v, its feed at %v", c, f.newest())
	}
	publish(t, js, 26, 27)
	cluster.Rejoin(cut)
	joined := time.Now()

	expect(t, before[0], 21, 27, 1)
	expect(t, resumed[0], 21, 27, 1)
	expect(t, resumed[1], 26, 27, 1)
	expect(t, before[1], 21, 27, 1)
	if late := time.Since(joined); late > 15*time.Second { // the routes alone need seconds
		t.Errorf("the last event came %v after the nodes were together again", late)
	}
	if n := gapsOf(t, apart) + gapsOf(t, alone); n != 0 {
		t.Errorf("%v gaps were told although nothing is missing", n)
	}
}

func TestALeaderWhoseLogEndsTooEarlyIsNotBelieved(t *testing.T) {
	behind, server := natstest.Start(t), natstest.Start(t)
	stale, js := natstest.Streams(t, behind.Connect(), 1), natstest.Streams(t, server.Connect(), 1)
	publish(t, stale, 1, 15)
	publish(t, js, 1, 15)
	h := runHub(t, server.Connect(), behind.Connect(), nil)
	live := attach(t, h, Filter{}, Since{})
	publish(t, js, 16, 20)
	expect(t, live, 16, 20, 1)
	resumed := attach(t, h, Filter{Channel: "odd", ByChannel: true}, Since{
		kind: fromCursor, cursor: event.Cursor{Log: h.Log(0), Sequence: 15},
	})
	await(t, "its read was tried again", func() bool { return count(t, h.stats.repairErrors) > 0 })
	h.lookAgain(0) // as after a new leader: the feeds may not go on by the word of the old one
	f := h.feeds["app"]
	failed := count(t, h.stats.repairErrors)
	publish(t, js, 21, 22)
	await(t, "the hold goes on", func() bool { return count(t, h.stats.repairErrors) > failed+2 })
	if c := f.newest(); c.Sequence != 20 {
		t.Errorf("the feed is at %v", c)
	}
	publish(t, stale, 16, 22) // it has caught up
	expect(t, live, 16, 22, 1)
	expect(t, resumed, 16, 22, 1)
	if n := gapsOf(t, h); n != 0 {
		t.Errorf("%v gaps were told although nothing is missing", n)
	}
}

func TestLeadersAreBelievedIfAMajorityHasAnsweredThem(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		name     string
		replicas int
		leader   string
		active   []time.Duration
		live     bool
	}{
		{"a server alone", 1, "a", nil, true},
		{"an old server alone, which names nobody", 0, "", nil, true},
		{"both answer", 3, "a", []time.Duration{s, 2 * s}, true},
		{"one is down", 3, "a", []time.Duration{100 * s, s}, true},
		{"one has never been heard from", 3, "a", []time.Duration{0, s}, true},
		{"cut off from both", 3, "a", []time.Duration{4 * s, 4 * s}, false},
		{"neither has been heard from yet", 3, "a", []time.Duration{0, 0}, false},
		{"nobody leads", 3, "", []time.Duration{s, s, s}, false},
		{"replicas that are not known yet", 3, "a", nil, false},
		{"two of five", 5, "a", []time.Duration{s, 4 * s, 4 * s, 4 * s}, false},
		{"three of five", 5, "a", []time.Duration{s, s, 4 * s, 4 * s}, true},
		{"two replicas, one away", 2, "a", []time.Duration{4 * s}, false},
	} {
		info := clusterInfo{Leader: c.leader}
		for _, d := range c.active {
			info.Replicas = append(info.Replicas, struct {
				Active time.Duration `json:"active"`
			}{d})
		}
		if got := info.live(c.replicas); got != c.live {
			t.Errorf("%s: live is %v", c.name, got)
		}
	}
}
