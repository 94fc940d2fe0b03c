package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"canopy/shared/config"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(within)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

func ingestConfig(shards int) config.Ingest {
	return config.Ingest{
		Shards: shards, Duplicates: 2 * time.Minute, Consumers: 1000,
		Retention: config.Retention{Age: time.Hour, Bytes: 512 << 20, EventsPerApplication: 10_000_000},
	}
}

// site is a publisher that runs, with its streams.
type site struct {
	*Publisher
	streams *Streams
	nc      *nats.Conn
	js      jetstream.JetStream
	stop    func()
}

func newSite(t testing.TB, url string, shards int, log *zap.Logger) *site {
	t.Helper()
	return newSiteWith(t, url, ingestConfig(shards), log)
}

func newSiteWith(t testing.TB, url string, cfg config.Ingest, log *zap.Logger) *site {
	t.Helper()
	nc, err := nats.Connect(url, nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.Timeout(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &site{Publisher: New(nc, cfg, log, prometheus.NewRegistry()), nc: nc, js: js}
	if s.streams, err = NewStreams(cfg, s.Publisher, log); err != nil {
		t.Fatal(err)
	}
	if err := s.streams.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	looked := make(chan struct{})
	go func() { s.streams.Run(ctx); close(looked) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		<-looked
		nc.Close()
	})
	t.Cleanup(s.stop)
	return s
}

// source is an owner that keeps at most limit messages open.
type source struct {
	name string
	room chan struct{}
	mu   sync.Mutex
	out  map[uint64]Outcome
}

func newSource(name string, limit int) *source {
	return &source{name: name, room: make(chan struct{}, limit), out: make(map[uint64]Outcome)}
}

func (s *source) Settled(index uint64, o Outcome) {
	s.mu.Lock()
	s.out[index] = o
	s.mu.Unlock()
	<-s.room
}

func (s *source) settled() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.out)
}

func (s *source) message(shard, i, size int) *Message {
	s.room <- struct{}{}
	return &Message{
		Shard: shard, Subject: subject.In(shard, "app"), ID: fmt.Sprint(s.name, "/0/", i),
		Data: []byte(fmt.Sprintf(`{"n":%d,"x":"%s"}`, i, strings.Repeat("x", size))), Owner: s, Index: uint64(i),
	}
}

// readStream looks at the stream and begins to read it. It asks until it is answered: while
// JetStream chooses a leader, of the stream or of itself, it answers 503 or not at all.
func readStream(ctx context.Context, t *testing.T, js jetstream.JetStream, shard int) (n uint64, it jetstream.MessagesContext) {
	t.Helper()
	eventually(t, time.Minute, "the stream answers", func() bool {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		s, err := js.Stream(attempt, subject.Stream(shard))
		if err != nil {
			return false
		}
		c, err := s.OrderedConsumer(attempt, jetstream.OrderedConsumerConfig{})
		if err != nil {
			return false
		}
		n = s.CachedInfo().State.Msgs
		it, err = c.Messages()
		return err == nil
	})
	t.Cleanup(it.Stop)
	return n, it
}

// checkStream fails unless the stream holds, of each name, n messages in order.
func checkStream(t *testing.T, js jetstream.JetStream, shard int, n int, names ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	stored, it := readStream(ctx, t, js, shard)
	next := make(map[string]int)
	for range stored {
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		var name string
		var i int
		id := m.Headers().Get(nats.MsgIdHdr)
		if _, err := fmt.Sscanf(strings.ReplaceAll(id, "/", " "), "%s 0 %d", &name, &i); err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		if i != next[name] {
			t.Fatalf("%s stands where %d belongs", id, next[name])
		}
		next[name]++
	}
	for _, name := range names {
		if next[name] != n {
			t.Errorf("%d messages of %s, want %d", next[name], name, n)
		}
	}
}

func TestSingleMessageIsAcknowledgedAtOnce(t *testing.T) {
	srv := natstest.Start(t)
	s := newSite(t, srv.URL(), 1, zaptest.NewLogger(t))
	src := newSource("a", 1)
	var slowest time.Duration
	begin := time.Now()
	const n = 100
	for i := range n {
		sent := time.Now()
		m := src.message(0, i, 100) // waits for the one before
		slowest = max(slowest, time.Since(sent))
		s.Publish(m)
		s.Flush()
	}
	eventually(t, 5*time.Second, "all acknowledged", func() bool { return src.settled() == n })
	t.Logf("mean %v, slowest %v", time.Since(begin)/n, slowest)
	// A message that waited for a ping or for a full flow would take 250 ms.
	if mean := time.Since(begin) / n; mean > pingAfter/4 {
		t.Errorf("mean time to the acknowledgement is %v", mean)
	}
}

func TestOrderIsKeptWhenTheStreamRefusesInTheMiddleOfABatch(t *testing.T) {
	srv := natstest.Start(t)
	s := newSite(t, srv.URL(), 1, zap.NewNop())
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	stream, err := s.js.Stream(ctx, subject.Stream(0))
	if err != nil {
		t.Fatal(err)
	}
	open := stream.CachedInfo().Config
	full := open
	full.Discard, full.DiscardNewPerSubject, full.MaxMsgsPerSubject = jetstream.DiscardNew, true, 777
	if _, err := s.js.UpdateStream(ctx, full); err != nil {
		t.Fatal(err)
	}
	const n = 3000
	a, b := newSource("a", 2000), newSource("b", 2000)
	go func() {
		for i := range n {
			s.Publish(a.message(0, i, 50))
			s.Publish(b.message(0, i, 50))
			s.Flush()
		}
	}()
	refusals := func() float64 { return counterValue(s.metrics.restarts.WithLabelValues(reasonError)) }
	eventually(t, 20*time.Second, "the full stream refuses some times", func() bool { return refusals() > 3 })
	if got := a.settled() + b.settled(); got != 777 {
		t.Errorf("%d settled while the stream held 777", got)
	}
	if _, err := s.js.UpdateStream(ctx, open); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "all is stored", func() bool { return a.settled() == n && b.settled() == n })
	checkStream(t, s.js, 0, n, "a", "b")
}

func TestOrderAndCompletenessSurviveChangesOfTheLeaderUnderLoad(t *testing.T) {
	list := natstest.StartCluster(t).Nodes
	s := newSite(t, list[0].URL(), 1, zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)))
	stop := make(chan struct{})
	sources := []*source{newSource("a", 600), newSource("b", 600)}
	sent := make(chan int)
	go func() {
		i := 0
		for {
			select {
			case <-stop:
				sent <- i
				return
			default:
			}
			for _, src := range sources {
				s.Publish(src.message(0, i, 200))
			}
			if i++; i%20 == 0 {
				s.Flush()
			}
		}
	}()
	changes := 0
	for range 5 {
		before := sources[0].settled()
		eventually(t, 30*time.Second, "messages flow", func() bool { return sources[0].settled() > before+1000 })
		changes += stepDown(t, s)
	}
	before := sources[0].settled()
	eventually(t, 30*time.Second, "messages flow", func() bool { return sources[0].settled() > before+1000 })
	close(stop)
	n := <-sent
	s.Flush()
	eventually(t, 30*time.Second, "all is stored", func() bool { return sources[0].settled() == n && sources[1].settled() == n })
	if changes < 3 {
		t.Errorf("the leader changed %d times", changes)
	}
	t.Logf("%d messages of each, %d changes", n, changes)
	checkStream(t, s.js, 0, n, "a", "b")
}

// stepDown has the stream's leader give way, and tells whether (1) it did.
func stepDown(t *testing.T, s *site) int {
	t.Helper()
	leader := func() string {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		st, err := s.js.Stream(ctx, subject.Stream(0))
		if err != nil || st.CachedInfo().Cluster == nil {
			return ""
		}
		return st.CachedInfo().Cluster.Leader
	}
	before := leader()
	m, err := s.nc.Request("$JS.API.STREAM.LEADER.STEPDOWN."+subject.Stream(0), nil, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var resp struct {
		Success bool `json:"success"`
	}
	if err := json.Unmarshal(m.Data, &resp); err != nil || !resp.Success {
		t.Fatalf("stepdown: %s %v", m.Data, err)
	}
	after := ""
	eventually(t, 20*time.Second, "a new leader", func() bool { after = leader(); return after != "" })
	if after != before {
		return 1
	}
	return 0
}

func TestThreeReplicasInAClusterAndOneAlone(t *testing.T) {
	for want, url := range map[int]string{
		1: natstest.Start(t).URL(),
		3: natstest.StartCluster(t).Nodes[1].URL(),
	} {
		s := newSite(t, url, 2, zap.NewNop())
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		st, err := s.js.Stream(ctx, subject.Stream(1))
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if got := st.CachedInfo().Config.Replicas; got != want {
			t.Errorf("%d replicas, want %d", got, want)
		}
	}
}

func TestShardsBeyondTheServersLimitEndTheStart(t *testing.T) {
	srv := natstest.Start(t)
	if err := srv.Running().GlobalAccount().UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{
		"": {MaxMemory: -1, MaxStore: -1, MaxStreams: 3, MaxConsumers: -1},
	}); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(srv.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	streams, err := NewStreams(ingestConfig(5), New(nc, ingestConfig(5), zap.NewNop(), prometheus.NewRegistry()), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	err = streams.Ensure(ctx)
	if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "maximum number of streams") {
		t.Errorf("Ensure = %v", err)
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, lanes := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("lanes=%d", lanes), func(b *testing.B) {
			srv := natstest.Start(b)
			s := newSite(b, srv.URL(), lanes, zap.NewNop())
			src := newSource("a", 16384)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				s.Publish(src.message(i%lanes, i, 400))
				if i%512 == 511 {
					s.Flush()
				}
				if len(src.room) == cap(src.room) {
					s.Flush()
				}
			}
			s.Flush()
			eventually(b, time.Minute, "all stored", func() bool { return src.settled() == b.N })
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
		})
	}
}

func counterValue(c prometheus.Counter) float64 {
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil || len(families) != 1 {
		return -1
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}
