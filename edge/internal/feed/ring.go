package feed

import (
	"sort"
	"sync"
	"time"

	"canopy/edge/internal/ws"
	"canopy/shared/event"
)

const (
	// maxWrite is the size of a full chunk in bytes and so of the largest write to a
	// socket, but for an event that is larger.
	maxWrite = 64 << 10

	// minChunk is the size in bytes of the first chunk of a feed that was quiet, so
	// that ten thousand quiet feeds do not fill the budget.
	minChunk = 4 << 10
)

// chunk is a piece of a ring: whole frames, end to end. Bytes below the ring's head
// never change, so that they can be written to sockets without a copy and a lock.
type chunk struct {
	ring  *ring
	start uint64 // position of its first byte
	buf   []byte // all of it, filled or not; never replaced, so that a view may read it

	before event.Cursor // of the last event before its first, in the same log

	used int       // bytes filled, guarded by the ring
	last time.Time // of the latest append, guarded by the ring

	// the budget's list, guarded by the budget
	older, newer      *chunk
	charged, released bool
}

// ring holds the latest events of one application as ready WebSocket frames. A
// position is the number of bytes that had ever been appended before it.
//
// One goroutine at a time appends; any may take a view.
type ring struct {
	budget *budget
	// fell is called, without a lock, after somebody else's growth has dropped chunks.
	fell func()

	mu     sync.Mutex
	chunks []*chunk // oldest first; replaced, never changed in place, when one is dropped
	head   uint64   // position behind the last frame
	at     int64    // when the last event was appended to Kafka, ms since 1970; 0 if unknown
	size   int64    // capacity of chunks, bytes

	last event.Cursor // of the last event, or the place at which the feed began
}

// view is a ring as it was at one moment. What it holds stays valid while it is held.
type view struct {
	chunks []*chunk
	head   uint64
	at     int64
}

// tail is the oldest position that is still held.
func (v view) tail() uint64 {
	if len(v.chunks) == 0 {
		return v.head
	}
	return v.chunks[0].start
}

// from gives the frames from pos to the end of their chunk. pos must be a boundary
// between frames, not below tail and below head.
func (v view) from(pos uint64) []byte {
	i := v.chunk(pos)
	c := v.chunks[i]
	if i == len(v.chunks)-1 {
		return c.buf[pos-c.start : v.head-c.start]
	}
	return c.buf[pos-c.start : v.chunks[i+1].start-c.start]
}

// chunk is the index of the chunk that holds pos.
func (v view) chunk(pos uint64) int {
	last := len(v.chunks) - 1
	if pos >= v.chunks[last].start {
		return last
	}
	return sort.Search(last, func(i int) bool { return v.chunks[i+1].start > pos })
}

// log is that of the event whose frame begins at pos.
func (v view) log(pos uint64) event.Log { return v.chunks[v.chunk(pos)].before.Log }

// frame gives the bytes between two positions of one chunk.
func (v view) frame(r ref) []byte { return v.from(r.start)[:r.size] }

func (r *ring) view() view {
	r.mu.Lock()
	defer r.mu.Unlock()
	return view{r.chunks, r.head, r.at}
}

// append adds one event and gives the positions of its frame. at is when it was
// appended to Kafka, in ms since 1970.
func (r *ring) append(json []byte, cur event.Cursor, at int64, now time.Time) (from, to uint64) {
	size := len(json) + event.CursorSuffixLen
	return r.put(frameLen(size), cur, at, now, func(b []byte) {
		event.AppendCursor(ws.AppendHeader(b, ws.OpText, size), json, cur)
	})
}

// put adds a frame of need bytes, which fill appends to an empty slice that has room for it.
func (r *ring) put(need int, cur event.Cursor, at int64, now time.Time, fill func([]byte)) (from, to uint64) {
	r.mu.Lock()
	c := r.room(need, cur.Log)
	fresh := c.used == 0
	fill(c.buf[c.used : c.used : c.used+need])
	c.used += need
	c.last = now
	from = r.head
	r.head += uint64(need)
	r.at = at
	r.last = cur
	to = r.head
	r.mu.Unlock()

	if fresh {
		r.budget.charge(c)
	}
	return from, to
}

// room gives the last chunk if it has need bytes left, else a new one: small while the
// feed is quiet, twice as large as the one before while it is busy. It holds events of one
// log only. mu is held.
func (r *ring) room(need int, log event.Log) *chunk {
	size, before := minChunk, event.Cursor{Log: log}
	if r.last.Log == log {
		before = r.last
	}
	if n := len(r.chunks); n > 0 && r.last.Log == log {
		last := r.chunks[n-1]
		if len(last.buf)-last.used >= need {
			return last
		}
		size = min(2*len(last.buf), maxWrite)
	}
	c := &chunk{ring: r, start: r.head, before: before, buf: make([]byte, max(size, need))}
	r.chunks = append(r.chunks[:len(r.chunks):len(r.chunks)], c) // copies: views share the old one
	r.size += int64(len(c.buf))
	return c
}

// begin notes the place behind which the ring will hold every event.
func (r *ring) begin(at event.Cursor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = at
}

// locate gives the position behind the place c, if the ring has every event from there
// on. c must not be a place that is still to come.
func (r *ring) locate(c event.Cursor) (pos uint64, ok bool) {
	r.mu.Lock()
	v, last := view{r.chunks, r.head, r.at}, r.last
	r.mu.Unlock()
	if c.Log == last.Log && c.Sequence >= last.Sequence {
		return v.head, true
	}
	for i := len(v.chunks) - 1; i >= 0; i-- {
		chunk := v.chunks[i]
		if chunk.before.Log != c.Log || chunk.before.Sequence > c.Sequence {
			continue
		}
		frames := v.from(chunk.start)
		pos := chunk.start
		for len(frames) > 0 {
			n := firstFrame(frames)
			if lastSequence(frames[:n]) > c.Sequence {
				break
			}
			frames = frames[n:]
			pos += uint64(n)
		}
		return pos, true
	}
	return 0, false
}

// slipping says whether a ring that may grow to limit bytes will drop pos so soon that a
// socket there could fall off at once.
func (r *ring) slipping(pos uint64, limit int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	tail := view{r.chunks, r.head, r.at}.tail()
	return r.size > limit/2 && pos < tail+(r.head-tail)/4
}

// expires says whether trim would drop a chunk for its age.
func (r *ring) expires(then time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.chunks) > 0 && r.chunks[0].last.Before(then)
}

// trim drops chunks whose latest event came before then, and the oldest while the ring
// is larger than limit bytes, but not the newest for that: a single event may be larger.
// It says whether it dropped any.
func (r *ring) trim(then time.Time, limit int64) bool {
	r.mu.Lock()
	n := 0
	size := r.size
	for n < len(r.chunks) && (r.chunks[n].last.Before(then) || size > limit && n < len(r.chunks)-1) {
		size -= int64(len(r.chunks[n].buf))
		n++
	}
	dropped := r.drop(n)
	r.mu.Unlock()
	r.budget.release(dropped)
	return n > 0
}

// dropThrough drops c and what is older.
func (r *ring) dropThrough(c *chunk) {
	r.mu.Lock()
	n := sort.Search(len(r.chunks), func(i int) bool { return r.chunks[i].start > c.start })
	dropped := r.drop(n)
	r.mu.Unlock()
	r.budget.release(dropped)
}

// drop takes the n oldest chunks away. mu is held.
func (r *ring) drop(n int) []*chunk {
	if n == 0 {
		return nil
	}
	dropped := r.chunks[:n]
	r.chunks = append([]*chunk(nil), r.chunks[n:]...)
	for _, c := range dropped {
		r.size -= int64(len(c.buf))
	}
	return dropped
}

// close drops everything.
func (r *ring) close() {
	r.mu.Lock()
	dropped := r.drop(len(r.chunks))
	r.mu.Unlock()
	r.budget.release(dropped)
}
