package feed

import (
	"sort"
	"sync"

	"canopy/shared/event"
)

// Filter says which of an application's events a socket wants. The zero value wants all.
// Filters are compared as a whole, so equal ones share a track.
type Filter struct {
	Channel string // the event's subject attribute, if ByChannel
	Device  string // the event's device extension, if ByDevice

	ByChannel, ByDevice bool
}

// labels are what filters ask of one event.
type labels struct {
	channel, device       string
	hasChannel, hasDevice bool
}

// filters calls visit with every filter but the zero one that the event passes.
func (l labels) filters(visit func(Filter)) {
	if l.hasChannel {
		visit(Filter{Channel: l.channel, ByChannel: true})
	}
	if l.hasDevice {
		visit(Filter{Device: l.device, ByDevice: true})
	}
	if l.hasChannel && l.hasDevice {
		visit(Filter{Channel: l.channel, ByChannel: true, Device: l.device, ByDevice: true})
	}
}

// passes says whether an event with these labels is wanted.
func (f Filter) passes(l labels) bool {
	return (!f.ByChannel || l.hasChannel && l.channel == f.Channel) &&
		(!f.ByDevice || l.hasDevice && l.device == f.Device)
}

// ref is one frame in the ring.
type ref struct {
	start uint64
	size  int
}

// track is what the sockets of one filter follow: the whole ring, where a position
// counts bytes, or references into it, where a position counts events.
//
// Any goroutine may call it.
type track struct {
	feed   *Feed
	ring   *ring
	filter Filter
	whole  bool
	packed bool   // the ring holds compressed frames
	start  uint64 // position in the ring from which on it refers to every frame

	sockets int // guarded by Feed.tracksMu

	mu      sync.Mutex
	buckets []*bucket
	refs    []ref  // oldest first; replaced, never changed in place, when old ones go
	base    uint64 // position of refs[0]
}

// perBucket is the number of sockets from which on it pays to wake another worker.
const perBucket = 64

// attach puts r, which is claimed, at a position.
func (t *track) attach(r *Reader, pos uint64) {
	r.pos.Store(pos)
	t.mu.Lock()
	b := t.bucket()
	t.mu.Unlock()
	b.add(r)
}

// position is that of the first frame of the track from a position in the ring on.
func (t *track) position(pos uint64) uint64 {
	if t.whole {
		return pos
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.base + uint64(sort.Search(len(t.refs), func(i int) bool { return t.refs[i].start >= pos }))
}

// bucket gives the bucket with the fewest readers, or a new one. mu is held.
func (t *track) bucket() *bucket {
	var least *bucket
	size := perBucket
	for _, b := range t.buckets {
		if n := b.size(); least == nil || n < size {
			least, size = b, n
		}
	}
	if least == nil || size >= perBucket && len(t.buckets) < t.feed.hub.sweep.workers {
		least = &bucket{track: t, sweep: t.feed.hub.sweep}
		t.buckets = append(t.buckets, least)
	}
	return least
}

// add refers to one more frame of the ring.
func (t *track) add(r ref) {
	t.mu.Lock()
	t.refs = append(t.refs, r)
	t.mu.Unlock()
}

// forget drops a filtered track's references below tail, the oldest position that the
// ring holds, and says whether there were any.
func (t *track) forget(tail uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for n < len(t.refs) && t.refs[n].start < tail {
		n++
	}
	if n > 0 {
		t.refs = append([]ref(nil), t.refs[n:]...)
		t.base += uint64(n)
	}
	return n > 0
}

// wake has the sweep visit every reader.
func (t *track) wake() {
	t.mu.Lock()
	buckets := t.buckets
	t.mu.Unlock()
	for _, b := range buckets {
		b.wake()
	}
}

func (t *track) calm() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range t.buckets {
		if !b.calm() {
			return false
		}
	}
	return true
}

// snapshot is a track as it was at one moment.
type snapshot struct {
	track      *track
	view       view
	refs       []ref
	base       uint64
	tail, head uint64 // positions in the track
}

func (t *track) snapshot() snapshot {
	if t.whole {
		v := t.ring.view()
		return snapshot{track: t, view: v, tail: v.tail(), head: v.head}
	}
	t.mu.Lock()
	s := snapshot{track: t, refs: t.refs, base: t.base}
	t.mu.Unlock()
	s.view = t.ring.view() // later than refs, so it holds all of them that it has not dropped
	s.head = s.base + uint64(len(s.refs))
	gone := 0
	for tail := s.view.tail(); gone < len(s.refs) && s.refs[gone].start < tail; {
		gone++
	}
	s.tail = s.base + uint64(gone)
	return s
}

// slice is what one write brings to a socket.
type slice struct {
	track    *track
	from, to uint64 // positions in the track
	frames   []byte // valid until the next slice is joined, for a filtered track
	events   int
	last     event.Cursor // of the last event
}

// next makes the slice from pos on, between tail and head. It joins a filtered track's
// frames in scratch and gives that back.
func (s *snapshot) next(pos uint64, scratch []byte) (slice, []byte) {
	n := slice{track: s.track, from: pos}
	last := pos // in the ring, of some frame in the chunk of the last one
	if s.track.whole {
		n.frames = s.view.from(pos)
		n.to = pos + uint64(len(n.frames))
		n.events = countFrames(n.frames)
	} else {
		scratch = scratch[:0]
		for _, r := range s.refs[pos-s.base:] {
			if n.events > 0 && len(scratch)+r.size > maxWrite {
				break
			}
			scratch = append(scratch, s.view.frame(r)...)
			n.events++
			last = r.start
		}
		n.frames = scratch
		n.to = pos + uint64(n.events)
	}
	n.last = event.Cursor{Log: s.view.log(last), Sequence: lastSequence(n.frames)}
	return n, scratch
}
