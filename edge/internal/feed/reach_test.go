package feed

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/shared/natstest"
)

// connectFirst connects to first and knows the other nodes of its cluster.
func connectFirst(t *testing.T, c *natstest.Cluster, first *natstest.Server) *nats.Conn {
	t.Helper()
	urls := []string{first.URL()}
	for _, s := range c.Nodes {
		if s != first {
			urls = append(urls, s.URL())
		}
	}
	nc, err := nats.Connect(strings.Join(urls, ","), nats.DontRandomize(), nats.MaxReconnects(-1),
		nats.ReconnectWait(20*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if nc.ConnectedUrl() != first.URL() {
		t.Fatalf("connected to %s, want %s", nc.ConnectedUrl(), first.URL())
	}
	return nc
}

func TestConnectionsLeaveAServerThatIsCutOff(t *testing.T) {
	cluster := natstest.StartCluster(t)
	cluster.Streams(1)
	leader := cluster.AwaitLeader(0, nil)
	cut := 0
	for cluster.Nodes[cut] == leader {
		cut++
	}
	alone := cluster.Nodes[cut]
	js, err := jetstream.New(leader.Connect())
	if err != nil {
		t.Fatal(err)
	}
	requests, other, feeds := connectFirst(t, cluster, alone), connectFirst(t, cluster, alone), connectFirst(t, cluster, alone)
	h := New(Config{Buffers: roomy, Workers: 2, Held: func() int64 { return 0 }, Others: []*nats.Conn{other}}, feeds, requests, zap.NewNop(), prometheus.NewRegistry())
	feeds.SetReconnectHandler(func(*nats.Conn) { h.Reconnected() })
	run(t, h)
	s := attach(t, h, Filter{}, Since{})
	publish(t, js, 1, 5)
	expect(t, s, 1, 5, 1)

	cluster.Isolate(cut)
	began := time.Now()
	publish(t, js, 6, 10)
	await(t, "all connections have left", func() bool {
		return requests.ConnectedUrl() != alone.URL() && feeds.ConnectedUrl() != alone.URL() && other.ConnectedUrl() != alone.URL()
	})
	t.Logf("left after %v", time.Since(began).Round(100*time.Millisecond))
	expect(t, s, 1, 10, 1)
	publish(t, js, 11, 15)
	expect(t, s, 1, 15, 1)
	if n := count(t, h.stats.moves); n != 3 {
		t.Errorf("%v moves of 3 connections", n)
	}
	if n := gapsOf(t, h); n != 0 {
		t.Errorf("%v gaps were told although nothing is missing", n)
	}
}

func TestAConnectionStaysAtTheOnlyServer(t *testing.T) {
	server := natstest.Start(t)
	direct := server.Connect()
	natstest.Streams(t, direct, 1)
	var silent atomic.Bool
	proxy := natstest.StartProxy(t, server.URL(), func(string) bool { return silent.Load() })
	requests := natstest.Connect(t, proxy.URL())
	h := runHub(t, direct, requests, nil)
	silent.Store(true)
	l := &link{nc: requests, history: h.history, server: requests.ConnectedServerId(), since: h.now().Add(-time.Hour)}
	h.lookAtLinks(t.Context(), []*link{l}, 0)
	if proxy.Dropped() == 0 {
		t.Fatal("the server was not asked, or its answer came")
	}
	if n := count(t, h.stats.moves); n != 0 {
		t.Errorf("moved %v times", n)
	}
	if n := requests.Stats().Reconnects; n != 0 {
		t.Errorf("connected again %d times", n)
	}
}

func TestAConnectionIsNotMovedAgainAndAgain(t *testing.T) {
	now := time.Unix(0, 0)
	server := natstest.Start(t)
	l := &link{nc: server.Connect(), since: now, server: "a"}
	var moves []time.Duration
	for at := time.Duration(0); at < 10*time.Minute; at += reachEvery {
		if l.note(now.Add(at), "a", false, false) {
			moves = append(moves, at)
			if err := l.move(now.Add(at)); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := []time.Duration{6, 16, 36, 76, 156, 276, 396, 516}
	for i := range want {
		want[i] *= time.Second
	}
	if !slices.Equal(moves, want) {
		t.Errorf("moved at %v, want %v", moves, want)
	}
	if l.note(now.Add(time.Hour), "a", true, false); l.wait != 0 {
		t.Errorf("it waits for %v after a leader has answered", l.wait)
	}
}

func TestAQuestionThatMeetsNoConnectionIsAskedAgain(t *testing.T) {
	server := natstest.Start(t)
	direct := server.Connect()
	js := natstest.Streams(t, direct, 1)
	publish(t, js, 1, 5)
	proxy := natstest.StartProxy(t, server.URL(), nil)
	requests, err := nats.Connect(proxy.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(requests.Close)
	h := runHub(t, direct, requests, nil)
	proxy.Refuse()
	await(t, "the connection is lost", func() bool { return requests.IsReconnecting() })
	if _, err := h.history.info(t.Context(), 0, ""); !h.history.away(err) {
		t.Errorf("a question without a connection: %v", err)
	}
	asked := count(t, h.stats.requests)
	done := make(chan struct{})
	s := newFakeSocket(-1)
	go func() {
		defer close(done)
		if err := h.Attach(t.Context(), "app", Filter{}, Since{kind: fromEarliest}, s, &s.Reader); err != nil {
			t.Error(err)
		}
	}()
	await(t, "it was asked again", func() bool { return count(t, h.stats.requests) > asked+2 })
	proxy.Admit()
	<-done
	t.Cleanup(s.Detach)
	s.Release()
	expect(t, s, 1, 5, 1)
}
