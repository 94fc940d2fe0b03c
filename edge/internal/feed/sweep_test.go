package feed

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

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
	for n := uint64(1); n <= 400; n++ { // faster than the sweep can follow
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

func TestOldEventsAreKeptForSocketsThatTheSweepHasNotVisited(t *testing.T) {
	buffers := roomy
	buffers.FeedAge = time.Minute
	f := newTestFeed(t, buffers)
	now := time.Now()
	f.hub.now = func() time.Time { return now }
	s := newFakeSocket(-1)
	f.attach(&s.Reader, s, Filter{}, begin{now: true})
	s.Release()
	s.mu.Lock() // whoever writes to it is stuck, as on a machine that has no time
	f.emit(1, 10, labels{})
	now = now.Add(2 * buffers.FeedAge)
	f.emit(2, 10, labels{})
	f.trim(now)
	now = now.Add(2 * buffers.FeedAge)
	f.trim(now)
	s.mu.Unlock()
	expect(t, s, 1, 2, 1)
	if n := s.cuts(); n != 0 {
		t.Errorf("told %d times that it is slow", n)
	}
	await(t, "the sweep is done", f.calm)
	f.trim(now)
	if n := f.hub.budget.size(); n != 0 {
		t.Errorf("%d bytes are held after all events are old and written", n)
	}
}

func BenchmarkDeliver(b *testing.B) {
	for _, sockets := range []int{1, 1000} {
		b.Run(fmt.Sprintf("sockets=%d", sockets), func(b *testing.B) {
			f := newTestFeed(b, roomy)
			list := make([]countingSocket, sockets)
			for i := range list {
				f.attach(&list[i].Reader, &list[i], Filter{}, begin{now: true})
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

func (s *countingSocket) Write(b []byte) error     { s.Written(len(b)); return nil }
func (s *countingSocket) WriteFast(b []byte) error { return s.Write(b) }
func (s *countingSocket) Lagged()                  {}
func (s *countingSocket) Detached()                {}
