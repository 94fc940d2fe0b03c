package feed

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/flate"

	"canopy/edge/internal/ws"
	"canopy/shared/config"
	"canopy/shared/event"
)

// newPackedFeed is a feed that compresses events of at least 100 bytes.
func newPackedFeed(t testing.TB, buffers config.Buffers) *Feed {
	f := newTestFeed(t, buffers)
	f.hub.config.Deflater = ws.NewDeflater(100)
	return f
}

// joinPacked is join for a socket that takes compressed frames.
func (f *Feed) joinPacked(s *fakeSocket, filter Filter) {
	s.Deflate()
	f.join(s, filter)
}

// compressed is how many events the feed's deflater has compressed.
func (f *Feed) compressed() int {
	n, _, _ := f.hub.config.Deflater.Counts()
	return int(n)
}

// messages are those of a server's frames, and how many of these were compressed.
func messages(t testing.TB, frames []byte) (list []string, packed int) {
	t.Helper()
	for len(frames) > 0 {
		n := firstFrame(frames)
		message := payload(frames[:n])
		if frames[0] == 0xC1 {
			packed++
			raw := io.MultiReader(bytes.NewReader(message), strings.NewReader("\x00\x00\xff\xff\x01\x00\x00\xff\xff"))
			var err error
			if message, err = io.ReadAll(flate.NewReader(raw)); err != nil {
				t.Fatalf("frame %d: %v", len(list), err)
			}
		} else if frames[0] != 0x81 {
			t.Fatalf("frame %d begins with %x", len(list), frames[0])
		}
		list = append(list, string(message))
		frames = frames[n:]
	}
	return list, packed
}

func TestEveryEventIsCompressedOnceForAllSocketsAndIsTheSameForAll(t *testing.T) {
	f := newPackedFeed(t, roomy)
	f.emit(1, 500, labels{})
	var plain, packed []*fakeSocket
	for range 100 {
		plain, packed = append(plain, newFakeSocket(-1)), append(packed, newFakeSocket(-1))
		f.join(plain[len(plain)-1], Filter{})
		f.joinPacked(packed[len(packed)-1], Filter{})
	}
	large := 0
	for n := uint64(2); n <= 1000; n++ {
		f.emit(n, int(n%700), labels{})
		if len(fmt.Sprintf(`{"n":%d,"pad":""}`, n))+int(n%700)+event.CursorSuffixLen >= 100 {
			large++
		}
	}
	for i := range plain {
		expect(t, plain[i], 2, 1000, 1)
		expect(t, packed[i], 2, 1000, 1)
	}
	if n := f.compressed(); n != large {
		t.Errorf("%d compressions of %d events for 100 sockets", n, large)
	}
	want, none := messages(t, plain[0].got.Bytes())
	got, some := messages(t, packed[0].got.Bytes())
	if !slices.Equal(got, want) {
		t.Error("the compressed messages are others")
	}
	if none != 0 || some < large*9/10 || some == len(got) {
		t.Errorf("%d and %d of %d frames are compressed", none, some, len(got))
	}
}

func TestFilteredSocketsGetTheirEventsCompressed(t *testing.T) {
	f := newPackedFeed(t, roomy)
	channel, device, both, plain := newFakeSocket(-1), newFakeSocket(300), newFakeSocket(-1), newFakeSocket(-1)
	f.joinPacked(channel, Filter{Channel: "c0", ByChannel: true})
	f.joinPacked(device, Filter{Device: "", ByDevice: true})
	f.joinPacked(both, Filter{Channel: "c0", ByChannel: true, Device: "", ByDevice: true})
	f.join(plain, Filter{Channel: "c0", ByChannel: true})
	for n := uint64(1); n <= 600; n++ {
		f.emit(n, 300, labels{channel: fmt.Sprint("c", n%2), hasChannel: true, hasDevice: n%3 == 0})
	}
	expect(t, channel, 2, 600, 2)
	device.widen(1 << 20)
	expect(t, device, 3, 600, 3)
	expect(t, both, 6, 600, 6)
	expect(t, plain, 2, 600, 2)
	if n := f.compressed(); n != 600 {
		t.Errorf("%d compressions of 600 events", n)
	}
	for _, s := range []*fakeSocket{channel, device, both, plain} {
		want := countFrames(s.got.Bytes())
		if s == plain {
			want = 0
		}
		if _, packed := messages(t, s.got.Bytes()); packed != want {
			t.Errorf("%d frames are compressed, want %d", packed, want)
		}
		s.Detach()
	}
	if len(f.tracks) != 0 || f.packed.sockets != 0 {
		t.Errorf("%d tracks and %d sockets are left", len(f.tracks), f.packed.sockets)
	}
}

func TestNothingIsCompressedUnlessASocketTakesItOrMayComeBack(t *testing.T) {
	f := newPackedFeed(t, roomy)
	now := time.Unix(1_000_000, 0)
	f.hub.now = func() time.Time { return now }
	plain := newFakeSocket(-1)
	f.join(plain, Filter{})
	emit := func(from, to uint64) {
		for n := from; n <= to; n++ {
			f.emit(n, 500, labels{})
		}
	}
	want := func(compressed int, held bool) {
		t.Helper()
		f.trimPacked(now)
		if n := f.compressed(); n != compressed {
			t.Errorf("%d events were compressed, want %d", n, compressed)
		}
		if f.packed.ring.size > 0 != held {
			t.Errorf("%d bytes of compressed events are held", f.packed.ring.size)
		}
		if sum := f.ring.size + f.packed.ring.size; f.hub.budget.size() != sum {
			t.Errorf("the budget counts %d of %d bytes", f.hub.budget.size(), sum)
		}
	}
	emit(1, 10)
	want(0, false)

	first := newFakeSocket(-1)
	f.joinPacked(first, Filter{})
	emit(11, 20)
	want(10, true)
	expect(t, first, 11, 20, 1)
	first.Detach()
	now = now.Add(linger - time.Second)
	emit(21, 30)
	want(20, true)

	// One that comes back finds its place, compressed.
	again := newFakeSocket(-1)
	again.Deflate()
	f.attach(&again.Reader, again, Filter{}, begin{cursor: first.Cursor(), entry: entryCheck})
	again.Release()
	expect(t, again, 21, 30, 1)
	again.Detach()
	now = now.Add(linger)
	want(20, false)
	emit(31, 40)
	want(20, false)

	last := newFakeSocket(-1)
	f.joinPacked(last, Filter{})
	emit(41, 50)
	want(30, true)
	expect(t, last, 41, 50, 1)
	expect(t, plain, 1, 50, 1)
}

func TestPlacesAmongCompressedEventsAreExact(t *testing.T) {
	f := newPackedFeed(t, roomy)
	keep := newFakeSocket(-1)
	f.joinPacked(keep, Filter{})
	// Sequences of one digit and of many, frames that are compressed and that are not.
	var all []uint64
	for n := uint64(1); n < math.MaxUint64/3; n = 1 + n*2 {
		all = append(all, n)
		f.emit(n, int(n%5)*100, labels{channel: "c", hasChannel: n%3 == 0})
	}
	for i, n := range all[:len(all)-1] {
		for _, c := range []uint64{n, n + 1} {
			if c == all[i+1] {
				continue
			}
			s := newFakeSocket(-1)
			s.Deflate()
			f.attach(&s.Reader, s, Filter{}, begin{cursor: event.Cursor{Log: 7, Sequence: c}, entry: entryCheck})
			s.Release()
			want := all[i+1:]
			s.until(t, "the rest", func() bool { return countFrames(s.got.Bytes()) >= len(want) })
			s.mu.Lock()
			if got := sequences(s.got.Bytes()); !slices.Equal(got, want) {
				t.Fatalf("behind %d: %d, want %d", c, got, want)
			}
			s.mu.Unlock()
			s.Detach()
		}
	}
	if c := keep.Cursor(); c.Log != 7 || c.Sequence != all[len(all)-1] {
		t.Errorf("the cursor is %v", c)
	}
}

func TestACompressedSocketThatFallsOffIsToldWhereItIs(t *testing.T) {
	buffers := roomy
	buffers.FeedBytes = 64 << 10
	f := newPackedFeed(t, buffers)
	slow, healthy := newFakeSocket(100), newFakeSocket(-1)
	f.joinPacked(slow, Filter{})
	f.joinPacked(healthy, Filter{})
	for n := uint64(1); n <= 3000; n++ {
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
	if f.packed.ring.size > buffers.FeedBytes {
		t.Errorf("%d bytes are held", f.packed.ring.size)
	}
}

func TestGapEventsReachCompressedSocketsAndLeadIntoTheOtherLog(t *testing.T) {
	f := newPackedFeed(t, roomy)
	all, channel := newFakeSocket(-1), newFakeSocket(-1)
	f.joinPacked(all, Filter{})
	f.joinPacked(channel, Filter{Channel: "c", ByChannel: true})
	f.emit(5, 500, labels{channel: "c", hasChannel: true})
	f.mu.Lock()
	f.repairing = true // there is no stream to read from
	f.mu.Unlock()
	f.resume(8)
	f.mu.Lock()
	f.chain.held = false
	f.mu.Unlock()
	f.emit(1, 500, labels{channel: "c", hasChannel: true})
	for _, s := range []*fakeSocket{all, channel} {
		s.until(t, "three events", func() bool { return countFrames(s.got.Bytes()) == 3 })
		list, packed := messages(t, s.got.Bytes())
		if packed != 3 || !strings.Contains(list[1], event.GapLog) {
			t.Errorf("%d compressed, %q", packed, list)
		}
		if c := s.Cursor(); c != (event.Cursor{Log: 8, Sequence: 1}) {
			t.Errorf("the cursor is %v", c)
		}
	}
}

// FuzzSequenceOfFrames reads the sequence back from the end of frames, compressed or not.
func FuzzSequenceOfFrames(f *testing.F) {
	d := ws.NewDeflater(1)
	f.Add([]byte("before"), "value", uint64(0))
	f.Add([]byte("9"), strings.Repeat("9", 500), uint64(math.MaxUint64))
	f.Fuzz(func(t *testing.T, before []byte, value string, sequence uint64) {
		json := event.AppendCursor(nil, fmt.Appendf(nil, `{"a":%q}`, value), event.Cursor{Log: 7, Sequence: sequence})
		frames := d.AppendFrame(before, ws.OpText, json, packedTail(sequence))
		if got := lastSequence(frames); got != sequence {
			t.Fatalf("%d is read as %d from %q", sequence, got, frames[len(before):])
		}
		if list, _ := messages(t, frames[len(before):]); len(list) != 1 || list[0] != string(json) {
			t.Fatalf("%q became %q", json, list)
		}
	})
}

// BenchmarkPackedEvent is what a feed pays for an event of 512 bytes, with and without a
// socket that takes it compressed.
func BenchmarkPackedEvent(b *testing.B) {
	for _, packs := range []bool{false, true} {
		b.Run(fmt.Sprintf("compressed=%v", packs), func(b *testing.B) {
			buffers := roomy
			buffers.FeedBytes = 1 << 20
			f := newPackedFeed(b, buffers)
			s := newFakeSocket(0)
			if packs {
				s.Deflate()
			}
			f.attach(&s.Reader, s, Filter{}, begin{now: true}) // not released: nothing is written
			m := message{json: []byte(typical)}
			b.ReportAllocs()
			for b.Loop() {
				m.sequence++
				f.mu.Lock()
				f.apply(m)
				f.mu.Unlock()
			}
			frames := s.track.ring.view()
			b.ReportMetric(float64(firstFrame(frames.from(frames.tail()))), "B/delivery")
		})
	}
}

const typical = `{"specversion":"1.0","id":"0f8fad5b-d9cb-469f-a165-70867728950e","type":"io.drogue.event.v1",` +
	`"source":"drogue://example-app/sensor-0042","datacontenttype":"application/json","subject":"temperature",` +
	`"time":"2026-11-25T21:06:20.123Z","data":{"temp":21.375,"hum":48.2},"application":"example-app",` +
	`"applicationuid":"b5a0c1f2-3e7d-4c86-9f0b-2a1d5e6c7b88","device":"sensor-0042",` +
	`"deviceuid":"7c9e6679-7425-40de-944b-e07fc1f90ae7","sender":"sensor-0042",` +
	`"partitionkey":"example-app/sensor-0042"}`
