package feed

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/shared/config"
	"canopy/shared/event"
)

const patience = 20 * time.Second

// fakeSocket takes what its window allows, like a kernel, and keeps the rest.
type fakeSocket struct {
	Reader
	mu       sync.Mutex
	window   int // bytes that it takes before it stalls; < 0: any number
	owed     []byte
	got      bytes.Buffer
	writes   int
	largest  int
	lagged   int
	detached int
	changed  *sync.Cond
	held     *atomic.Int64 // what is owed to all sockets; may be nil
}

func newFakeSocket(window int) *fakeSocket {
	s := &fakeSocket{window: window}
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *fakeSocket) Write(b []byte) error {
	s.mu.Lock()
	if s.detached > 0 {
		s.mu.Unlock()
		return errors.New("written to after Detached")
	}
	s.writes++
	s.largest = max(s.largest, len(b))
	s.owed = append(s.owed, b...)
	s.hold(len(b))
	n := s.take()
	s.mu.Unlock()
	s.tell(n)
	return nil
}

// take moves what the window allows from owed to got. mu is held.
func (s *fakeSocket) take() int {
	n := len(s.owed)
	if s.window >= 0 {
		n = min(n, s.window)
		s.window -= n
	}
	s.got.Write(s.owed[:n])
	s.owed = s.owed[n:]
	s.hold(-n)
	s.changed.Broadcast()
	return n
}

func (s *fakeSocket) hold(n int) {
	if s.held != nil {
		s.held.Add(int64(n))
	}
}

func (s *fakeSocket) tell(n int) {
	if n > 0 {
		s.Written(n)
	}
}

// widen lets the socket take n more bytes.
func (s *fakeSocket) widen(n int) {
	s.mu.Lock()
	s.window += n
	n = s.take()
	s.mu.Unlock()
	s.tell(n)
}

// refill lets the socket take n more bytes, but never more than that at once.
func (s *fakeSocket) refill(n int) {
	s.mu.Lock()
	s.window = n
	n = s.take()
	s.mu.Unlock()
	s.tell(n)
}

func (s *fakeSocket) Lagged(cut bool) {
	s.mu.Lock()
	s.lagged++
	s.changed.Broadcast()
	s.mu.Unlock()
	s.Detach()
	if cut && s.held != nil {
		s.mu.Lock()
		s.hold(-len(s.owed))
		s.owed = nil
		s.mu.Unlock()
		s.Forget()
	}
}

func (s *fakeSocket) Detached() {
	s.mu.Lock()
	s.detached++
	s.changed.Broadcast()
	s.mu.Unlock()
}

// until waits for a condition on the socket.
func (s *fakeSocket) until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	stop := time.AfterFunc(patience, s.changed.Broadcast)
	defer stop.Stop()
	deadline := time.Now().Add(patience)
	s.mu.Lock()
	defer s.mu.Unlock()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s (got %d bytes, %d owed, %d writes, lagged %d)", what, patience, s.got.Len(), len(s.owed), s.writes, s.lagged)
		}
		s.changed.Wait()
	}
}

// newTestFeed is an open feed of a hub without NATS, whose sweep runs until the test ends.
func newTestFeed(t testing.TB, buffers config.Buffers) *Feed {
	cfg := Config{Buffers: buffers, Workers: 2, Held: func() int64 { return 0 }}
	h := New(cfg, nil, nil, zap.NewNop(), prometheus.NewRegistry())
	var workers sync.WaitGroup
	for range cfg.Workers {
		workers.Go(h.sweep.run)
	}
	t.Cleanup(func() { h.sweep.stop(); workers.Wait() })
	return newOpenFeed(h, "app")
}

func newOpenFeed(h *Hub, application string) *Feed {
	f := newFeed(h, application, 0)
	f.logID.Store(7)
	f.chain.held = false
	h.feeds[application] = f
	return f
}

var roomy = config.Buffers{FeedAge: time.Hour, FeedBytes: 64 << 20, TotalBytes: 512 << 20, SocketBytes: 256 << 20}

// emit appends event number n, of about size bytes.
func (f *Feed) emit(n uint64, size int, l labels) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.chain.head = n
	f.apply(message{sequence: n, labels: l, json: fmt.Appendf(nil, `{"n":%d,"pad":%q}`, n, strings.Repeat("x", size))})
}

// cuts is how often the socket was told that it lags.
func (s *fakeSocket) cuts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lagged
}

// sequences reads the event numbers back from frames.
func sequences(b []byte) (list []uint64) {
	for len(b) > 0 {
		size, header := int(b[1]), 2
		if size == 126 {
			size, header = int(b[2])<<8|int(b[3]), 4
		} else if size == 127 {
			size, header = int(binary.BigEndian.Uint64(b[2:])), 10
		}
		list = append(list, event.LastSequence(b[:header+size]))
		b = b[header+size:]
	}
	return list
}

func (f *Feed) join(s *fakeSocket, filter Filter) {
	f.attach(&s.Reader, s, filter)
	s.Release()
}

func expect(t *testing.T, s *fakeSocket, from, to, step uint64) {
	t.Helper()
	want := int((to-from)/step) + 1
	s.until(t, fmt.Sprintf("%d events", want), func() bool { return countFrames(s.got.Bytes()) >= want })
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, n := range sequences(s.got.Bytes()) {
		if n != from+uint64(i)*step {
			t.Fatalf("event %d is %d, want %d", i, n, from+uint64(i)*step)
		}
	}
}

func TestEverySocketGetsEveryEventOnceAndInOrder(t *testing.T) {
	f := newTestFeed(t, roomy)
	f.emit(1, 10, labels{})
	sockets := make([]*fakeSocket, 300)
	for i := range sockets {
		sockets[i] = newFakeSocket(-1)
		f.join(sockets[i], Filter{})
	}
	for n := uint64(2); n <= 2000; n++ {
		f.emit(n, int(n%700), labels{})
	}
	for _, s := range sockets {
		expect(t, s, 2, 2000, 1)
		if s.largest > maxWrite {
			t.Fatalf("a write of %d bytes", s.largest)
		}
	}
}

func TestAStalledSocketIsPassedOverAndGoesOnWhenItDrains(t *testing.T) {
	f := newTestFeed(t, roomy)
	slow, healthy := newFakeSocket(100), newFakeSocket(-1)
	f.join(slow, Filter{})
	f.join(healthy, Filter{})
	for n := uint64(1); n <= 500; n++ {
		f.emit(n, 1000, labels{})
	}
	expect(t, healthy, 1, 500, 1)
	slow.mu.Lock()
	if slow.writes != 1 {
		t.Errorf("%d writes to a socket that took 100 bytes", slow.writes)
	}
	slow.mu.Unlock()
	for range 600 {
		slow.widen(1200)
	}
	expect(t, slow, 1, 500, 1)
}

func TestASocketThatFallsOffTheRingIsToldSo(t *testing.T) {
	buffers := roomy
	buffers.FeedBytes = 256 << 10
	f := newTestFeed(t, buffers)
	slow, healthy := newFakeSocket(100), newFakeSocket(-1)
	f.join(slow, Filter{})
	f.join(healthy, Filter{})
	for n := uint64(1); n <= 1000; n++ {
		f.emit(n, 1000, labels{})
		healthy.until(t, "the healthy socket follows", func() bool { return healthy.got.Len() > 0 })
		healthy.mu.Lock()
		healthy.got.Reset()
		healthy.mu.Unlock()
	}
	slow.until(t, "the slow socket is told", func() bool { return slow.lagged == 1 && slow.detached == 1 })
	if c := slow.Cursor(); c.Log != 7 || c.Sequence == 0 || c.Sequence > 100 {
		t.Errorf("the slow socket resumes behind %v", c)
	}
	if healthy.lagged > 0 {
		t.Error("the healthy socket was told so, too")
	}
}

func TestFilteredSocketsGetTheirEventsOnly(t *testing.T) {
	f := newTestFeed(t, roomy)
	all, channel, device, both, none := newFakeSocket(-1), newFakeSocket(-1), newFakeSocket(300), newFakeSocket(-1), newFakeSocket(-1)
	f.join(all, Filter{})
	f.join(channel, Filter{Channel: "c0", ByChannel: true})
	f.join(device, Filter{Device: "", ByDevice: true})
	f.join(both, Filter{Channel: "c0", ByChannel: true, Device: "", ByDevice: true})
	f.join(none, Filter{Channel: "", ByChannel: true})
	for n := uint64(1); n <= 600; n++ {
		f.emit(n, 300, labels{channel: fmt.Sprint("c", n%2), hasChannel: true, hasDevice: n%3 == 0})
	}
	expect(t, all, 1, 600, 1)
	expect(t, channel, 2, 600, 2)
	device.widen(1 << 20)
	expect(t, device, 3, 600, 3)
	expect(t, both, 6, 600, 6)
	if none.got.Len() > 0 {
		t.Error("events without a matching channel were sent")
	}
	channel.Detach()
	device.Detach()
	both.Detach()
	none.Detach()
	if len(f.tracks) != 0 {
		t.Errorf("%d tracks outlive their sockets", len(f.tracks))
	}
}

func TestNothingIsWrittenAfterDetached(t *testing.T) {
	f := newTestFeed(t, roomy)
	rng := rand.New(rand.NewPCG(1, 2))
	sockets := make([]*fakeSocket, 400)
	for i := range sockets {
		sockets[i] = newFakeSocket(-1)
		f.join(sockets[i], Filter{})
	}
	var closers sync.WaitGroup
	for i, s := range sockets {
		if i%2 == 0 {
			after := rng.IntN(100)
			closers.Go(func() {
				s.until(t, "some events", func() bool { return countFrames(s.got.Bytes()) >= after })
				s.Detach()
				s.Detach()
			})
		}
	}
	for n := uint64(1); n <= 300; n++ {
		f.emit(n, 100, labels{})
	}
	closers.Wait()
	for i, s := range sockets {
		if i%2 == 1 {
			expect(t, s, 1, 300, 1)
			continue
		}
		s.until(t, "detached once", func() bool { return s.detached == 1 })
		if n := countFrames(s.got.Bytes()); n > 300 {
			t.Errorf("%d events", n)
		}
	}
	if n := f.whole.buckets[0].size() + f.whole.buckets[1].size(); n != 200 {
		t.Errorf("%d readers are left, want 200", n)
	}
}

func TestATurnEndsSoonAlsoIfEventsAreLarge(t *testing.T) {
	const size = 1 << 20
	h := New(Config{Buffers: roomy, Workers: 1, Held: func() int64 { return 0 }}, nil, nil, zap.NewNop(), prometheus.NewRegistry())
	f := newOpenFeed(h, "app")
	sockets := make([]*fakeSocket, batch)
	for i := range sockets {
		sockets[i] = newFakeSocket(-1)
		f.join(sockets[i], Filter{})
	}
	f.emit(1, size, labels{})
	w := worker{sweep: h.sweep, readers: make([]*Reader, 0, batch)}
	b := h.sweep.pop()
	turns := 0
	for done := false; !done; turns++ {
		w.turn(b)
		if w.bytes > turnBytes+2*size {
			t.Fatalf("a turn wrote %d bytes", w.bytes)
		}
		done = b.rest()
	}
	for _, s := range sockets {
		if s.writes != 1 {
			t.Fatalf("a socket got %d writes in %d turns, want 1", s.writes, turns)
		}
	}
}

func TestAReaderThatGoesLeavesTheOthersInTheirPlacesWhereverThePassIs(t *testing.T) {
	for size := 1; size <= 5; size++ {
		for next := 0; next <= size; next++ {
			for gone := range size {
				b := &bucket{passing: true, next: next}
				visited := map[*Reader]bool{}
				for i := range size {
					r := &Reader{}
					b.add(r)
					visited[r] = i < next
				}
				r := b.readers[gone]
				b.remove(r)
				delete(visited, r)
				for i, r := range b.readers {
					if was, in := visited[r]; !in || was != (i < b.next) || r.index != i {
						t.Errorf("of %d, %d visited, %d went: place %d holds one with index %d, visited %v", size, next, gone, i, r.index, was)
					}
					delete(visited, r)
				}
				if len(visited) > 0 {
					t.Errorf("of %d, %d visited, %d went: %d more are missing", size, next, gone, len(visited))
				}
			}
		}
	}
}

func TestSocketsThatLagAreServedInTurn(t *testing.T) {
	h := New(Config{Buffers: roomy, Workers: 1, Held: func() int64 { return 0 }}, nil, nil, zap.NewNop(), prometheus.NewRegistry())
	f := newOpenFeed(h, "app")
	sockets := make([]*fakeSocket, 4*batch)
	for i := range sockets {
		sockets[i] = newFakeSocket(-1)
		f.join(sockets[i], Filter{})
	}
	w := worker{sweep: h.sweep, readers: make([]*Reader, 0, batch)}
	b := h.sweep.pop()
	for n := uint64(1); n <= 50; n++ { // faster than the sweep can follow
		f.emit(n, maxWrite, labels{})
		for range 2 {
			w.turn(b)
			if b.rest() {
				t.Fatal("the sweep could follow")
			}
		}
	}
	least, most := sockets[0].writes, 0
	for _, s := range sockets {
		least, most = min(least, s.writes), max(most, s.writes)
	}
	if least == 0 || most > 3*least {
		t.Errorf("one socket got %d writes, another %d", least, most)
	}
}

func TestOnlyTracksThatLostEventsAreWokenWhenChunksGo(t *testing.T) {
	buffers := roomy
	buffers.FeedBytes = 128 << 10
	h := New(Config{Buffers: buffers, Workers: 1, Held: func() int64 { return 0 }}, nil, nil, zap.NewNop(), prometheus.NewRegistry())
	f := newOpenFeed(h, "app")
	for n := range 100 {
		f.join(newFakeSocket(-1), Filter{Device: fmt.Sprint(n), ByDevice: true})
	}
	w := worker{sweep: h.sweep, readers: make([]*Reader, 0, batch)}
	settle := func() (turns int) {
		for ; len(h.sweep.queue) > 0; turns++ {
			b := h.sweep.pop()
			w.turn(b)
			if !b.rest() {
				h.sweep.push(b)
			}
		}
		return turns
	}
	f.emit(1, 10, labels{device: "7", hasDevice: true})
	settle()
	for n := uint64(2); n <= 300; n++ {
		f.emit(n, 1000, labels{})
	}
	if turns := settle(); turns != 1 {
		t.Errorf("%d tracks were woken, want the one whose event is gone", turns)
	}
}

func TestTheBudgetOfAllFeedsDropsTheOldestChunks(t *testing.T) {
	buffers := roomy
	buffers.TotalBytes = 1 << 20
	f := newTestFeed(t, buffers)
	quiet := newOpenFeed(f.hub, "quiet")
	slow := newFakeSocket(0)
	quiet.join(slow, Filter{})
	quiet.emit(1, 100, labels{})
	quiet.emit(2, 100, labels{})
	slow.until(t, "the first write", func() bool { return slow.writes == 1 })
	for n := uint64(1); n <= 3000; n++ {
		f.emit(n, 1000, labels{})
		if held := f.hub.budget.size(); held > buffers.TotalBytes {
			t.Fatalf("%d bytes are held, of %d", held, buffers.TotalBytes)
		}
	}
	if len(quiet.ring.view().chunks) != 0 {
		t.Error("the oldest chunk, of another feed, is still there")
	}
	f.close()
	quiet.close()
	if held := f.hub.budget.size(); held != 0 {
		t.Errorf("%d bytes are held after the feeds are closed", held)
	}
}

func TestOldEventsAreDroppedByAge(t *testing.T) {
	buffers := roomy
	buffers.FeedAge = time.Minute
	f := newTestFeed(t, buffers)
	now := time.Now()
	f.hub.now = func() time.Time { return now }
	f.emit(1, 10, labels{})
	now = now.Add(59 * time.Second)
	f.emit(2, 10, labels{}) // into the same chunk, which so lives on
	now = now.Add(59 * time.Second)
	f.trim(now)
	if n := f.hub.budget.size(); n != minChunk {
		t.Errorf("%d bytes are held while an event is 59 s old", n)
	}
	now = now.Add(2 * time.Second)
	f.trim(now)
	if n := f.hub.budget.size(); n != 0 {
		t.Errorf("%d bytes are held after all events are a minute old", n)
	}
}

func BenchmarkDeliver(b *testing.B) {
	for _, sockets := range []int{1, 1000} {
		b.Run(fmt.Sprintf("sockets=%d", sockets), func(b *testing.B) {
			f := newTestFeed(b, roomy)
			list := make([]countingSocket, sockets)
			for i := range list {
				f.attach(&list[i].Reader, &list[i], Filter{})
				list[i].Release()
			}
			m := message{json: bytes.Repeat([]byte("x"), 512)}
			m.json[0], m.json[511] = '{', '}'
			b.ReportAllocs()
			for b.Loop() {
				f.mu.Lock()
				m.sequence++
				f.chain.head = m.sequence
				f.apply(m)
				f.mu.Unlock()
				for !f.calm() {
					<-f.calmed
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*sockets), "ns/delivery")
		})
	}
}

// countingSocket takes everything at once.
type countingSocket struct{ Reader }

func (s *countingSocket) Write(b []byte) error { s.Written(len(b)); return nil }
func (s *countingSocket) Lagged(bool)          {}
func (s *countingSocket) Detached()            {}
