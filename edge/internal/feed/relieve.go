package feed

import (
	"context"
	"time"
)

const (
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

// unpark lets the parked buckets go on.
func (s *sweep) unpark() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, s.parked...)
	s.parked = nil
	s.cond.Broadcast()
}

func (s *sweep) waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.parked) > 0
}

// press asks for the memory that stalled sockets hold, and for relax to wait for it.
func (h *Hub) press() {
	if h.config.Press != nil {
		h.config.Press()
	}
	select {
	case h.over <- struct{}{}:
	default:
	}
}

// guard lets those go on that wait for memory.
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

// relax lets the parked buckets go on as soon as stalled sockets hold little enough, and
// returns when none is parked. Config.Press has some of these sockets go before long.
func (h *Hub) relax(ctx context.Context) {
	ticker := time.NewTicker(lookAtHeld)
	defer ticker.Stop()
	for h.sweep.waiting() {
		if h.config.Held() <= h.sweep.mark() {
			h.sweep.unpark()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
