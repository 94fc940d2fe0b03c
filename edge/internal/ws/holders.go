package ws

import (
	"sync"
	"sync/atomic"
	"time"
)

// takenShare is the part of what a connection holds that its kernel has to take to count as
// one that takes something: one over that. Whoever reads a byte now and then frees nothing.
const takenShare = 8

// holder is the memory that nbio keeps for one connection whose kernel buffer is full. There
// is one for each connection for which it keeps any, whoever wrote it: events, answers,
// close frames, and what TLS says by itself.
type holder struct {
	conn  *Conn
	bytes atomic.Int64 // that the kernel has not taken, and those of the same buffer that it has
	since atomic.Int64 // when it had taken a takenShare last, or this began; of the engine's time

	// The next three belong to whoever holds nbio's lock of the connection.
	spent int // bytes of the first buffer that the kernel has taken: it is kept to its end
	room  int // capacity of that buffer behind them
	taken int // bytes that it took since then

	prev, next *holder // guarded by holders
	listed     bool    // guarded by holders
}

// holders lists every holder of an engine. Any goroutine may call it; its lock comes last.
type holders struct {
	mu    sync.Mutex
	first *holder
}

func (l *holders) add(h *holder) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h.listed, h.next = true, l.first
	if l.first != nil {
		l.first.prev = h
	}
	l.first = h
}

// remove takes h out, if it is in.
func (l *holders) remove(h *holder) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !h.listed {
		return
	}
	if h.prev != nil {
		h.prev.next = h.next
	} else {
		l.first = h.next
	}
	if h.next != nil {
		h.next.prev = h.prev
	}
	h.prev, h.next, h.listed = nil, nil, false
}

// holding is what one connection holds, and for how long the kernel has taken next to none
// of it.
type holding struct {
	conn  *Conn
	bytes int64
	stuck time.Duration
}

// all lists what connections hold at now, without those that were cut: dying is what these
// still hold.
func (l *holders) all(now time.Duration) (list []holding, dying int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for h := l.first; h != nil; h = h.next {
		n := h.bytes.Load()
		if h.conn.state.Load()&stateCut != 0 {
			dying += n
		} else if n > 0 {
			list = append(list, holding{h.conn, n, now - time.Duration(h.since.Load())})
		}
	}
	return list, dying
}

// begin lists h for c, of which left bytes wait.
func (h *holder) begin(c *Conn, left int) {
	h.conn = c
	h.bytes.Store(int64(left))
	h.since.Store(int64(c.engine.time()))
	c.engine.holders.add(h)
}

// took notes that the kernel took b, the beginning of what nbio keeps; left bytes wait
// behind it. nbio frees a buffer when it has taken all of it, and what is left of the same
// buffer begins where b ends. With fresh, b comes from a writer and was not kept.
func (h *holder) took(b []byte, left int, fresh bool) {
	switch {
	case fresh:
		h.spent = 0
	case cap(b) == h.room:
		h.spent += len(b)
	default:
		h.spent = len(b)
	}
	h.room = cap(b) - len(b)
	if h.room == 0 {
		h.spent = 0
	}
	h.bytes.Store(int64(left + h.spent))
	if h.taken += len(b); h.taken >= (left+h.spent)/takenShare {
		h.taken = 0
		h.since.Store(int64(h.conn.engine.time()))
	}
}

// wrote notes that left bytes wait after a write.
func (h *holder) wrote(left int) { h.bytes.Store(int64(left + h.spent)) }
