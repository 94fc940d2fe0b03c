package feed

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/shared/config"
	"canopy/shared/event"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

// startHub runs a hub on a stream of its own until the test ends. change may be nil.
func startHub(t *testing.T, buffers config.Buffers, url func(*natstest.Server) string, change func(*Config)) (*Hub, jetstream.JetStream, *natstest.Server) {
	t.Helper()
	server := natstest.Start(t)
	direct := server.Connect()
	js := natstest.Streams(t, direct, 1)
	nc := direct
	if url != nil {
		nc = natstest.Connect(t, url(server))
	}
	cfg := Config{Buffers: buffers, Workers: 2, Held: func() int64 { return 0 }}
	if change != nil {
		change(&cfg)
	}
	h := New(cfg, nc, direct, zap.NewNop(), prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(t.Context())
	var hub sync.WaitGroup
	hub.Go(func() { _ = h.Run(ctx) })
	t.Cleanup(hub.Wait)
	t.Cleanup(cancel)
	await(t, "the streams are known", func() bool { return h.Ready() == nil })
	return h, js, server
}

// count reads a counter.
func count(t *testing.T, c prometheus.Collector) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil || len(families) != 1 {
		t.Fatalf("read a metric: %v %v", families, err)
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

// numbersOf reads the event numbers back from whole frames, 0 for a gap.
func numbersOf(t *testing.T, b []byte) (list []int) {
	for len(b) > 0 {
		n := firstFrame(b)
		header := 2
		if b[1] == 126 {
			header = 4
		}
		var e struct{ N int }
		if err := json.Unmarshal(b[header:n], &e); err != nil {
			t.Fatalf("read %q: %v", b[:n], err)
		}
		list = append(list, e.N)
		b = b[n:]
	}
	return list
}

// timeline is what has been published, while more is.
type timeline struct {
	mu   sync.Mutex
	at   []event.Cursor // of event n
	when []time.Time    // after it was stored
}

func (l *timeline) newest() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.at) - 1
}

// publish adds numbered events until done is closed. Odd ones have the channel "odd"; now
// and then another application's event lies between.
func (l *timeline) publish(t *testing.T, js jetstream.JetStream, log event.Log, done <-chan struct{}) {
	for n := 1; ; n++ {
		select {
		case <-done:
			return
		default:
		}
		m := natstest.Message(1, "app", "", fmt.Sprintf(`{"n":%d,"pad":"%0*d"}`, n, n%400, 0))
		if n%2 == 1 {
			m.Header.Set(event.HeaderChannel, "odd")
		}
		ack, err := js.PublishMsg(context.Background(), m)
		if err != nil {
			t.Error(err)
			return
		}
		l.mu.Lock()
		l.at = append(l.at, event.Cursor{Log: log, Sequence: ack.Sequence})
		l.when = append(l.when, time.Now())
		l.mu.Unlock()
		if n%7 == 0 {
			if _, err := js.PublishMsg(context.Background(), natstest.Message(1, "neighbour", "", `{"n":1}`)); err != nil {
				t.Error(err)
				return
			}
		}
	}
}

// join opens a socket of some reader somewhere in the past and reads until it has had events
// that came later: every one once and in order.
func (l *timeline) join(t *testing.T, h *Hub, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 7))
	newest := l.newest()
	back := []int{0, 1, 5, 30, 200, 1500}[rng.IntN(6)]
	k := max(1, newest-rng.IntN(back+1))
	l.mu.Lock()
	since := Since{kind: fromCursor, cursor: l.at[k]}
	if rng.IntN(4) == 0 {
		since = Since{kind: fromTime, at: l.when[k]}
	}
	l.mu.Unlock()
	since = since.For(fmt.Sprint("reader ", seed%3))
	step, filter := 1, Filter{}
	if rng.IntN(3) == 0 {
		step, filter = 2, Filter{Channel: "odd", ByChannel: true}
	}
	s := newFakeSocket(-1)
	slow := rng.IntN(4) == 0
	if slow {
		s.window = 300 // bytes, and then 8 MB/s at most
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := h.Attach(ctx, "app", filter, since, s, &s.Reader); err != nil {
		return err
	}
	defer s.Detach()
	s.Release()
	if slow {
		var client sync.WaitGroup
		defer client.Wait()
		defer cancel()
		client.Go(func() { s.readSlowly(ctx) })
	}
	last := newest + 2 + rng.IntN(10)
	first := k + 1
	if step == 2 && first%2 == 0 {
		first++
	}
	want := (last-first)/step + 1
	s.until(t, fmt.Sprintf("seed %d: %d events from %d on", seed, want, first), func() bool {
		return s.whole() >= want || s.lagged > 0
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lagged > 0 {
		return nil // a slow consumer: it would come back
	}
	for i, n := range numbersOf(t, s.got.Bytes()[:s.gotWhole]) {
		if n != first+i*step {
			return fmt.Errorf("seed %d: event %d is %d, want %d (from %d, newest %d, slow %v)", seed, i, n, first+i*step, first, newest, slow)
		}
	}
	return nil
}

// TestNothingIsMissingOrDoubledWhereAReplayMeetsTheLiveFeed joins 300 times, or as often
// as CANOPY_TEST_SEAM says.
func TestNothingIsMissingOrDoubledWhereAReplayMeetsTheLiveFeed(t *testing.T) {
	joins := uint64(300)
	if text := os.Getenv("CANOPY_TEST_SEAM"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("CANOPY_TEST_SEAM: %v", err)
		}
		joins = n
	}
	seam(t, joins, nil)
}

func TestNothingIsMissingOrDoubledWhereAReplayHasToWaitForItsBudget(t *testing.T) {
	over := prometheus.NewCounter(prometheus.CounterOpts{Name: "over"})
	seam(t, 300, func(h *Hub) {
		h.accounts.mu.Lock()
		defer h.accounts.mu.Unlock()
		h.accounts.burst, h.accounts.rate, h.accounts.over = 20*eventCost, 100*eventCost, over
	})
	n := count(t, over)
	t.Logf("%v sockets had to wait", n)
	if n < 20 {
		t.Errorf("%v sockets had to wait, want more", n)
	}
}

// seam joins so often, from many goroutines. change, which may be nil, has the hub first.
func seam(t *testing.T, joins uint64, change func(*Hub)) {
	t.Helper()
	buffers := roomy
	buffers.FeedBytes = 64 << 10 // so that much has to come from the stream
	h, js, _ := startHub(t, buffers, nil, nil)
	if change != nil {
		change(h)
	}
	stream, err := js.Stream(t.Context(), subject.Stream(0))
	if err != nil {
		t.Fatal(err)
	}
	var l timeline
	l.at, l.when = make([]event.Cursor, 1), make([]time.Time, 1)
	done := make(chan struct{})
	var publisher, joiners sync.WaitGroup
	publisher.Go(func() { l.publish(t, js, event.LogOf(stream.CachedInfo().Created), done) })
	defer publisher.Wait()
	defer close(done)
	await(t, "events are published", func() bool { return l.newest() > 50 })
	var next, fails atomic.Uint64
	for range 24 {
		joiners.Go(func() {
			for seed := next.Add(1); seed <= joins && fails.Load() < 5; seed = next.Add(1) {
				if err := l.join(t, h, seed); err != nil {
					fails.Add(1)
					t.Error(err)
				}
			}
		})
	}
	joiners.Wait()
	replays, reads := count(t, h.stats.replays), count(t, h.stats.replayReads)
	t.Logf("%d joins, %v of them from the stream in %v reads, %d events published, %v slow consumers", joins, replays, reads,
		l.newest(), count(t, h.stats.lagged))
	if replays < float64(joins)/10 || replays > float64(joins)*9/10 {
		t.Errorf("%v of %d sockets read from the stream, want some of each kind", replays, joins)
	}
}
