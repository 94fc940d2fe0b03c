package feed

import (
	"time"

	"canopy/edge/internal/ws"
	"canopy/shared/event"
)

// keepPacked is the size up to which a feed keeps its memory for making a frame, in bytes.
const keepPacked = 64 << 10

// packed is a feed in compressed frames: a ring of its own, for the sockets that take that.
// It is filled while there are any, and for a while after, in which they may come back;
// otherwise nothing is compressed. An event that is small goes in as it is.
type packed struct {
	ring  *ring
	whole *track

	open        bool   // the ring is filled; guarded by Feed.mu
	json, frame []byte // of the latest event; guarded by Feed.mu

	sockets int       // guarded by Feed.tracksMu
	idle    time.Time // since when there is none; guarded by Feed.tracksMu
}

// trackKey names a filtered track.
type trackKey struct {
	filter Filter
	packed bool
}

// trackOf gives the track for one more socket, which takes compressed frames if packs. mu
// and tracksMu are held.
func (f *Feed) trackOf(filter Filter, packs bool) *track {
	t := f.whole
	if packs && f.hub.config.Deflater != nil {
		t = f.packed.whole
		f.packed.sockets++
		f.openPacked()
	}
	if filter == (Filter{}) {
		return t
	}
	key := trackKey{filter, t.packed}
	if old := f.tracks[key]; old != nil {
		return old
	}
	t = &track{feed: f, ring: t.ring, filter: filter, packed: t.packed, start: t.ring.view().head}
	f.tracks[key] = t
	return t
}

// openPacked begins to fill the ring of compressed frames behind the newest event. mu is
// held.
func (f *Feed) openPacked() {
	if f.packed.open {
		return
	}
	f.packed.open = true
	f.packed.ring.begin(f.ring.newest())
}

// trimPacked does for the ring of compressed frames what trim does for the other, and empties
// it when no socket has wanted it for a while.
func (f *Feed) trimPacked(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.packed.open {
		return
	}
	f.tracksMu.Lock()
	wanted := f.packed.sockets > 0 || now.Sub(f.packed.idle) < linger
	f.tracksMu.Unlock()
	if wanted {
		f.trimRing(f.packed.ring, now)
		return
	}
	f.packed.open, f.packed.json, f.packed.frame = false, nil, nil
	f.packed.ring.close() // with mu: who comes next begins a ring that is empty
}

// pack appends an event to the ring of compressed frames, wakes those who follow all of it,
// and says where the frame is. mu is held.
func (f *Feed) pack(json []byte, c event.Cursor, at int64, now time.Time) ref {
	p := &f.packed
	p.json = event.AppendCursor(p.json[:0], json, c)
	p.frame = f.hub.config.Deflater.AppendFrame(p.frame[:0], ws.OpText, p.json, packedTail(c.Sequence))
	frame := p.frame
	from, to := p.ring.put(len(frame), c, at, now, func(b []byte) { _ = append(b, frame...) })
	if cap(p.json) > keepPacked {
		p.json, p.frame = nil, nil
	}
	f.trimRing(p.ring, now)
	p.whole.wake()
	return ref{from, int(to - from)}
}

// packing is the number of sockets that take compressed frames.
func (h *Hub) packing() (n int) {
	h.mu.Lock()
	feeds := h.all()
	h.mu.Unlock()
	for _, f := range feeds {
		f.tracksMu.Lock()
		n += f.packed.sockets
		f.tracksMu.Unlock()
	}
	return n
}

// deflater is what compresses the frames of the track's sockets, nil if they get them as
// they are.
func (t *track) deflater() *ws.Deflater {
	if !t.packed {
		return nil
	}
	return t.feed.hub.config.Deflater
}

// newest is the place of the last event.
func (r *ring) newest() event.Cursor {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}
