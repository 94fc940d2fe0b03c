package feed

import (
	"context"
	"sort"
	"sync"
	"time"
)

const (
	// drainGrace is how long sockets have to drain a drainStep of the budget, while
	// nothing more is written, before those that lag most are cut: healthy clients need
	// no more than that.
	drainGrace = 100 * time.Millisecond
	drainStep  = 16

	// relievePause is the time between two reliefs: the pollers free within it what was
	// cut, which until then still counts as held and must not cost other sockets theirs.
	relievePause = 20 * time.Millisecond

	lookAtHeld = 5 * time.Millisecond

	// lookAfter is how many bytes a worker writes before it looks at the memory that
	// stalled sockets hold: about what the kernel takes from one write.
	lookAfter = 64 << 10
)

// mark is the number of bytes held above which large writes wait, and below which
// whoever waits goes on. Small ones, which a healthy socket's kernel takes whole, may
// use the rest of the limit: one application's large events do not stop the others.
func (s *sweep) mark() int64 { return s.limit / 4 * 3 }

// mustWait says whether stalled sockets hold too much for another write of n bytes.
func (w *worker) mustWait(n int) bool {
	w.unseen += n
	if w.unseen < lookAfter {
		return false
	}
	w.unseen = 0
	limit := w.sweep.limit
	if n > maxWrite {
		limit = w.sweep.mark()
	}
	w.pressed = w.sweep.held() > limit
	if w.pressed {
		w.unseen = lookAfter // so that the next write looks, too
	}
	return w.pressed
}

// park keeps b, which wants to write, until the stalled sockets hold less.
func (s *sweep) park(b *bucket) {
	s.stats.pressed.Inc()
	s.mu.Lock()
	s.parked = append(s.parked, b)
	s.mu.Unlock()
	s.pressed()
}

// unpark lets the parked buckets go on, and says whether there were any.
func (s *sweep) unpark() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.parked)
	s.queue = append(s.queue, s.parked...)
	s.parked = nil
	s.cond.Broadcast()
	return n > 0
}

func (s *sweep) waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.parked) > 0
}

// checkHeld is called by the sweep when a socket stalls.
func (h *Hub) checkHeld() {
	if h.config.Held() > h.config.Buffers.SocketBytes {
		h.signalOver()
	}
}

func (h *Hub) signalOver() {
	select {
	case h.over <- struct{}{}:
	default:
	}
}

// guard keeps what stalled sockets hold inside its budget.
func (h *Hub) guard(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.over:
			h.relax(ctx)
		}
	}
}

// relax gives sockets time to drain, cuts some if they do not, and returns when nothing
// waits for memory any more.
func (h *Hub) relax(ctx context.Context) {
	ticker := time.NewTicker(lookAtHeld)
	defer ticker.Stop()
	limit, mark := h.sweep.limit, h.sweep.mark()
	least, deadline := h.config.Held(), time.Now().Add(h.grace)
	for {
		held := h.config.Held()
		switch {
		case held <= mark:
			if !h.sweep.unpark() {
				return
			}
			least, deadline = limit, time.Now().Add(h.grace)
		case held <= limit && !h.sweep.waiting():
			return
		case held < least-limit/drainStep:
			least, deadline = held, time.Now().Add(h.grace)
		case !time.Now().Before(deadline):
			h.relieve(held - limit/2) // below the mark, so that there is room for a while
			deadline = time.Now().Add(relievePause)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// relieve cuts the stalled sockets that lag most until excess bytes are free.
func (h *Hub) relieve(excess int64) {
	for _, r := range h.leaving.all() { // their clients have to come back anyway
		if excess <= 0 {
			return
		}
		excess -= r.Owed()
		r.socket.Lagged(true)
	}
	type laggard struct {
		reader *Reader
		lag    uint64
	}
	var list []laggard
	h.mu.Lock()
	feeds := h.all()
	h.mu.Unlock()
	for _, f := range feeds {
		f.eachStalled(func(r *Reader, lag uint64) { list = append(list, laggard{r, lag}) })
	}
	sort.Slice(list, func(i, j int) bool { return list[i].lag > list[j].lag })
	for _, l := range list {
		if excess <= 0 {
			return
		}
		excess -= l.reader.Owed()
		h.stats.lagged.Inc()
		l.reader.socket.Lagged(true)
	}
}

// eachStalled visits the sockets that the sweep passes over, with the bytes by which
// they lag, or for filtered ones the bytes that they are owed.
func (f *Feed) eachStalled(visit func(r *Reader, lag uint64)) {
	f.tracksMu.Lock()
	tracks := []*track{f.whole, f.packed.whole}
	for _, t := range f.tracks {
		tracks = append(tracks, t)
	}
	f.tracksMu.Unlock()
	for _, r := range f.replays.list() {
		if r.state.Load()&(stalled|detached) == stalled {
			visit(r, uint64(max(0, r.Owed())))
		}
	}
	for _, t := range tracks {
		head := t.ring.view().head
		t.mu.Lock()
		buckets := t.buckets
		t.mu.Unlock()
		for _, b := range buckets {
			b.mu.Lock()
			readers := append([]*Reader(nil), b.readers...)
			b.mu.Unlock()
			for _, r := range readers {
				if r.state.Load()&(stalled|detached) != stalled {
					continue
				}
				lag := uint64(max(0, r.Owed()))
				if t.whole {
					lag += head - min(head, r.pos.Load())
				}
				visit(r, lag)
			}
		}
	}
}

// leaving are the sockets that get no more events and still hold bytes: their close
// frame waits behind those. Any goroutine may call it.
type leaving struct {
	mu      sync.Mutex
	readers map[*Reader]struct{}
}

// add notes r if it holds anything and its connection is not gone.
func (l *leaving) add(r *Reader) {
	if r.Owed() == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.state.Load()&forgotten != 0 {
		return
	}
	if l.readers == nil {
		l.readers = map[*Reader]struct{}{}
	}
	l.readers[r] = struct{}{}
}

func (l *leaving) remove(r *Reader) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.readers, r)
}

func (l *leaving) all() []*Reader {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*Reader, 0, len(l.readers))
	for r := range l.readers {
		list = append(list, r)
	}
	return list
}
