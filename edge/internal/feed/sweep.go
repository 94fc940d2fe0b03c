package feed

import (
	"sync"
	"time"
)

const (
	// batch is the number of readers that are visited with one snapshot.
	batch = 64

	// A bucket has its turn for so many visits or bytes; then the other feeds come.
	turnVisits = 256
	turnBytes  = 256 << 10
)

// bucket is a part of a track's readers. At most one worker at a time visits them, so
// that the order of a socket's events needs no lock.
type bucket struct {
	track *track
	sweep *sweep

	mu      sync.Mutex // never held across a write
	readers []*Reader
	next    int       // in a pass: readers before it were visited
	passing bool      // a pass is under way
	fresh   bool      // events came since it began
	resumed []*Reader // readers to visit beside the pass, in the order in which they asked
	aside   bool      // resumed come next, not the pass
	write   int       // bytes of the latest write; its worker's
	queued  bool      // in the sweep's queue or in a worker's hands
}

func (b *bucket) size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.readers)
}

func (b *bucket) calm() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.queued
}

func (b *bucket) add(r *Reader) {
	b.mu.Lock()
	r.bucket, r.index = b, len(b.readers)
	b.readers = append(b.readers, r)
	b.mu.Unlock()
}

// remove takes r out, wherever the pass is: those before next stay before it.
func (b *bucket) remove(r *Reader) {
	b.mu.Lock()
	defer b.mu.Unlock()
	hole := r.index
	if hole < b.next {
		b.next--
		b.move(b.next, hole)
		hole = b.next
	}
	last := len(b.readers) - 1
	if hole != last { // else whoever stood there has moved, or is r
		b.move(last, hole)
	}
	b.readers[last] = nil
	b.readers = b.readers[:last]
}

func (b *bucket) move(from, to int) {
	b.readers[to] = b.readers[from]
	b.readers[to].index = to
}

// wake asks for a pass over all readers.
func (b *bucket) wake() {
	b.mu.Lock()
	b.fresh = true
	push := !b.queued
	b.queued = true
	b.mu.Unlock()
	if push {
		b.sweep.push(b)
	}
}

// resume asks for a visit to r alone.
func (b *bucket) resume(r *Reader) {
	b.mu.Lock()
	if !r.waits {
		r.waits = true
		b.resumed = append(b.resumed, r)
	}
	push := !b.queued
	b.queued = true
	b.mu.Unlock()
	if push {
		b.sweep.push(b)
	}
}

// take gives up to most readers to visit, in turn from the pass and from resumed, so that
// those that lag most and those that lag least cannot starve each other. It gives none
// when there is nothing left to do.
func (b *bucket) take(into []*Reader, most int) []*Reader {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.passing && b.fresh {
		b.passing, b.fresh, b.next = true, false, 0
	}
	pass := b.passing && b.next < len(b.readers)
	b.aside = !b.aside
	if n := min(most, len(b.resumed)); n > 0 && (b.aside || !pass) {
		into = append(into, b.resumed[:n]...)
		clear(b.resumed[:n])
		b.resumed = b.resumed[n:]
		for _, r := range into {
			r.waits = false
		}
		return into
	}
	if pass {
		n := min(most, len(b.readers)-b.next)
		into = append(into, b.readers[b.next:b.next+n]...)
		b.next += n
	}
	if b.next == len(b.readers) {
		b.passing = false
		b.next = 0
	}
	return into
}

// rest says whether the bucket is done, and takes it out of the queue if so.
func (b *bucket) rest() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queued = b.fresh || b.passing || len(b.resumed) > 0
	return !b.queued
}

// sweep writes events to sockets: every bucket that has something to do stands in its
// queue, and each worker serves the first one for a bounded turn.
type sweep struct {
	workers int
	stats   *metrics
	pressed func() // a bucket was parked
	held    func() int64
	limit   int64 // of held, bytes

	mu     sync.Mutex
	cond   *sync.Cond
	queue  []*bucket
	parked []*bucket // they want to write, and stalled sockets hold too much
	closed bool
}

func newSweep(workers int, held func() int64, limit int64, stats *metrics) *sweep {
	s := &sweep{workers: workers, stats: stats, held: held, limit: limit}
	s.cond = sync.NewCond(&s.mu)
	return s
}

func (s *sweep) push(b *bucket) {
	s.mu.Lock()
	s.queue = append(s.queue, b)
	s.mu.Unlock()
	s.cond.Signal()
}

func (s *sweep) pop() *bucket {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 && !s.closed {
		s.cond.Wait()
	}
	if s.closed {
		return nil
	}
	b := s.queue[0]
	s.queue[0] = nil
	s.queue = s.queue[1:]
	return b
}

// stop ends run, in every worker, after its turn.
func (s *sweep) stop() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cond.Broadcast()
}

// run serves buckets until stop is called. It is called once for each worker.
func (s *sweep) run() {
	w := worker{sweep: s, readers: make([]*Reader, 0, batch)}
	for {
		b := s.pop()
		if b == nil {
			return
		}
		w.turn(b)
		if w.pressed {
			s.park(b)
		} else if !b.rest() {
			s.push(b)
		} else {
			b.track.feed.rested()
		}
	}
}

// worker is what one goroutine of the sweep has for itself.
type worker struct {
	sweep   *sweep
	readers []*Reader
	scratch []byte
	slice   slice // the latest one: most sockets want the same
	visits  int
	bytes   int
	writes  int
	events  int

	unseen  int  // bytes written since the memory of stalled sockets was looked at
	pressed bool // it is too much: the turn is over
}

// turn serves b until it is done or its turn is over.
func (w *worker) turn(b *bucket) {
	w.visits, w.bytes, w.writes, w.events, w.pressed = 0, 0, 0, 0, false
	w.slice = slice{}
	var at int64
	for w.visits < turnVisits && w.bytes < turnBytes && !w.pressed {
		// Not more than will have their write: those beyond lose their place in the pass.
		most := min(batch, 1+(turnBytes-w.bytes)/max(1, b.write))
		w.readers = b.take(w.readers[:0], most)
		if len(w.readers) == 0 {
			break
		}
		s := b.track.snapshot()
		at = s.view.at
		for _, r := range w.readers {
			// Events may have grown: who does not fit into this turn waits for the next.
			if w.bytes >= turnBytes || w.pressed || w.visit(&s, r) {
				b.resume(r)
			}
		}
		w.visits += len(w.readers)
		b.write = len(w.slice.frames)
	}
	clear(w.readers)
	w.slice = slice{}
	if w.writes > 0 {
		w.sweep.stats.delivered(w.writes, w.events, w.bytes, at, time.Now())
	}
}

// visit writes one slice to r if it can take one. It says whether it wants another one.
func (w *worker) visit(s *snapshot, r *Reader) bool {
	pos := r.pos.Load()
	if pos >= s.head {
		return false
	}
	if pos < s.tail {
		if r.state.Load()&(detached|claimed) == 0 { // one that is not open yet is told when it is
			w.sweep.stats.lagged.Inc()
			r.socket.Lagged()
		}
		return false
	}
	if !r.claim() {
		return false
	}
	if r.owed.Load() != 0 && r.stall() {
		r.unclaim()
		return false
	}
	if w.slice.track != s.track || w.slice.from != pos || w.slice.to < s.head && !w.full() {
		w.slice, w.scratch = s.next(pos, w.scratch)
	}
	n := &w.slice
	if w.mustWait(len(n.frames)) {
		return r.unclaim()
	}
	r.owed.Add(int64(len(n.frames)))
	r.pos.Store(n.to)
	r.place(n.last)
	err := r.socket.WriteFast(n.frames)
	waits := err != nil || r.owed.Load() != 0 && r.stall()
	w.writes++
	w.events += n.events
	w.bytes += len(n.frames)
	return r.unclaim() && !waits && n.to < s.head
}

// full says whether the latest slice could not have been longer.
func (w *worker) full() bool { return len(w.slice.frames) > maxWrite/2 }
