package feed

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/shared/event"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

// scatter publishes events of "app", numbered from first to last, with others between.
func scatter(t *testing.T, js jetstream.JetStream, first, last, others int) {
	t.Helper()
	for n := first; n <= last; n++ {
		if js.PublishAsyncPending() > 1000 {
			<-js.PublishAsyncComplete()
		}
		for i := range others {
			if _, err := js.PublishMsgAsync(natstest.Message(1, fmt.Sprint("other-", i), "", `{"n":0}`)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := js.PublishMsgAsync(natstest.Message(1, "app", "", fmt.Sprintf(`{"n":%d}`, n))); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(patience):
		t.Fatal("events are not acknowledged")
	}
}

// expectNumbers waits for the events from first to last and nothing else.
func expectNumbers(t *testing.T, s *fakeSocket, first, last int) {
	t.Helper()
	s.until(t, fmt.Sprintf("events %d to %d", first, last), func() bool { return s.whole() >= last-first+1 })
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, n := range numbersOf(t, s.got.Bytes()) {
		if n != first+i {
			t.Fatalf("event %d is %d (0: a gap)", first+i, n)
		}
	}
}

func TestEventsThatLieFarApartAreReadTogether(t *testing.T) {
	const events, others = 400, 40
	h, js, _ := startHub(t, roomy, nil, nil)
	scatter(t, js, 1, events, others)
	before := count(t, h.stats.requests)
	s := attach(t, h, Filter{}, Since{kind: fromEarliest})
	expectNumbers(t, s, 1, events)
	requests := count(t, h.stats.requests) - before
	t.Logf("%v requests for %d events: %.3f an event", requests, events, requests/events)
	if requests > events/5 {
		t.Errorf("%v requests for %d events", requests, events)
	}
}

// startForgetful makes a copy of the stream that answers reads like a follower, and lets it
// forget what comes before a sequence.
func startForgetful(t *testing.T, js jetstream.JetStream, before uint64) {
	t.Helper()
	copied, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "COPY", Mirror: &jetstream.StreamSource{Name: subject.Stream(0)}, AllowDirect: true, MirrorDirect: true,
		Storage: jetstream.MemoryStorage,
	})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), subject.Stream(0))
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the copy is whole", func() bool {
		info, err := copied.Info(t.Context())
		return err == nil && info.State.LastSeq == stream.CachedInfo().State.LastSeq
	})
	if err := copied.Purge(t.Context(), jetstream.WithPurgeSequence(before)); err != nil {
		t.Fatal(err)
	}
	await(t, "the copy answers with what it has left", func() bool {
		m, err := stream.GetMsg(t.Context(), 1, jetstream.WithGetMsgSubject(subject.In(0, "app")))
		if err != nil {
			t.Fatal(err)
		}
		return m.Sequence >= before
	})
}

func TestAFollowerThatForgetsSoonerCostsNothing(t *testing.T) {
	for _, c := range []struct {
		name   string
		others int
	}{{"close together", 0}, {"far apart", 40}} {
		t.Run(c.name, func(t *testing.T) {
			const events = 60
			server := natstest.Start(t)
			nc := server.Connect()
			js := natstest.Streams(t, nc, 1)
			scatter(t, js, 1, events, c.others)
			startForgetful(t, js, uint64((events-5)*(c.others+1)))
			h := runHub(t, nc, nc, nil)
			for n := range 20 {
				s := attach(t, h, Filter{}, Since{kind: fromCursor, cursor: event.Cursor{Log: h.Log(0), Sequence: uint64(n * (c.others + 1))}})
				expectNumbers(t, s, n+1, events)
				s.Detach()
				h.kept.trim(time.Now()) // so that the next one reads, too
			}
			if n := gapsOf(t, h); n != 0 {
				t.Errorf("%v gaps were told although nothing is missing", n)
			}
		})
	}
}

func TestFeedsThatRepairMissNothingThatAFollowerForgets(t *testing.T) {
	for _, feeds := range []int{1, 2 * sharedRepairs} {
		t.Run(fmt.Sprint(feeds, " feeds"), func(t *testing.T) {
			const events = 100
			var deaf atomic.Bool
			h, js, proxy := startDeafHub(t, &deaf)
			s := attach(t, h, Filter{}, Since{})
			for i := range feeds - 1 {
				s := newFakeSocket(-1)
				if err := h.Attach(t.Context(), fmt.Sprint("other-", i), Filter{}, Since{}, s, &s.Reader); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(s.Detach)
				s.Release()
			}
			deaf.Store(true)
			scatter(t, js, 1, events, feeds-1)
			startForgetful(t, js, uint64((events-5)*feeds))
			await(t, "the events are lost", func() bool { return proxy.Dropped() >= events*int64(feeds) })
			deaf.Store(false)
			h.Reconnected()
			expectNumbers(t, s, 1, events)
			if n := gapsOf(t, h); n != 0 {
				t.Errorf("%v gaps were told although nothing is missing", n)
			}
		})
	}
}

// slowLink passes what a server says on at a rate, and gives its own address.
func slowLink(t *testing.T, url string, bytesPerSecond int) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", strings.TrimPrefix(url, "nats://"))
			if err != nil {
				_ = client.Close()
				return
			}
			go func() { _, _ = io.Copy(server, client); _ = server.Close() }()
			go func() { passSlowly(client, server, bytesPerSecond); _ = client.Close() }()
		}
	}()
	return "nats://" + listener.Addr().String()
}

func passSlowly(client io.Writer, server io.Reader, bytesPerSecond int) {
	piece := make([]byte, 4<<10)
	free := time.Now() // when the link takes the next piece
	for {
		n, err := server.Read(piece)
		if err != nil {
			return
		}
		if earliest := time.Now().Add(-time.Second / 4); free.Before(earliest) {
			free = earliest // what was late on a loaded machine may catch up
		}
		free = free.Add(time.Second * time.Duration(n) / time.Duration(bytesPerSecond))
		<-time.After(time.Until(free))
		if _, err := client.Write(piece[:n]); err != nil {
			return
		}
	}
}

func TestAReplayComesOverASlowLink(t *testing.T) {
	const events, size, rate = 100, 10 << 10, 256 << 10 // all of them need longer than a question may
	server := natstest.Start(t)
	direct := server.Connect()
	js := natstest.Streams(t, direct, 1)
	for n := 1; n <= events; n++ {
		if _, err := js.PublishMsg(t.Context(), natstest.Message(1, "app", "", fmt.Sprintf(`{"n":%d,"pad":"%0*d"}`, n, size, 0))); err != nil {
			t.Fatal(err)
		}
	}
	requests, err := nats.Connect(slowLink(t, server.URL(), rate), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(requests.Close)
	h := runHub(t, direct, requests, nil)
	began := time.Now()
	s := attach(t, h, Filter{}, Since{kind: fromEarliest})
	expectNumbers(t, s, 1, events)
	t.Logf("all came within %v", time.Since(began).Round(100*time.Millisecond))
	if n := gapsOf(t, h); n != 0 {
		t.Errorf("%v gaps were told", n)
	}
	if n := count(t, h.stats.moves); n != 0 {
		t.Errorf("the slow connection was moved %v times", n)
	}
}

func TestWhatHasComeOfABatchIsKept(t *testing.T) {
	const events, come = 50, 20
	server := natstest.Start(t)
	js := natstest.Streams(t, server.Connect(), 1)
	scatter(t, js, 1, events, 0)
	var n atomic.Int64
	proxy := natstest.StartProxy(t, server.URL(), func(subject string) bool {
		return strings.HasPrefix(subject, "_INBOX") && n.Add(1) > come
	})
	h := New(Config{Buffers: roomy, Held: func() int64 { return 0 }}, nil, natstest.Connect(t, proxy.URL()), zap.NewNop(), prometheus.NewRegistry())
	var list []uint64
	err := h.history.batch(t.Context(), 0, batchQuery{Sequence: 1, Batch: events}, func(_ string, m message) { list = append(list, m.sequence) })
	if err != nil || len(list) != come || list[come-1] != come {
		t.Errorf("read %v, error %v; want the first %d", list, err, come)
	}
	if proxy.Dropped() == 0 {
		t.Error("nothing was cut off")
	}
}

func TestWindowsOfAllStreamsShareOneBudget(t *testing.T) {
	const size = 1000
	s := &shelf{limit: 10 * size}
	for n := range uint64(50) {
		for shard := range 4 {
			s.keep(&window{shard: shard, log: 7, from: 1 + 256*n, through: 256 * (n + 1), bytes: size})
			if s.size() > s.limit {
				t.Fatalf("%d bytes are kept", s.size())
			}
		}
	}
	if s.size() != s.limit {
		t.Errorf("%d bytes are kept, want %d", s.size(), s.limit)
	}
	if s.find(3, 7, 256*50, false) == nil || s.find(3, 7, 1, false) != nil || s.find(3, 8, 256*50, false) != nil || s.find(5, 7, 256*50, false) != nil {
		t.Error("the newest is not found, or another is")
	}
	if s.find(3, 7, 256*50, true) != nil {
		t.Error("the newest goes on behind its end")
	}
	s.keep(&window{shard: 1, log: 7, from: 1, through: 2, bytes: 20 * size}) // one large event
	if s.size() != 0 {
		t.Errorf("%d bytes are kept behind a window that is larger than the budget", s.size())
	}
	s.keep(&window{shard: 1, log: 7, from: 1, through: 2, bytes: size})
	s.keep(&window{shard: 2, log: 7, from: 1, through: 2, bytes: size})
	s.clear(1)
	if s.size() != size || s.find(2, 7, 1, false) == nil {
		t.Errorf("%d bytes are kept after one stream's were cleared", s.size())
	}
}
