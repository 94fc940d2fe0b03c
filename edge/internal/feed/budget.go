package feed

import "sync"

// budget bounds the bytes that all rings of an edge hold: above the limit the oldest
// chunks go first, whosever they are.
//
// Any goroutine may call it, none while it holds a ring's lock: dropping takes those.
type budget struct {
	limit int64

	mu             sync.Mutex
	held           int64
	oldest, newest *chunk
}

func newBudget(limit int64) *budget { return &budget{limit: limit} }

// charge counts a new chunk and drops the oldest ones while there are too many bytes.
// The newest stays: it is being written.
func (b *budget) charge(c *chunk) {
	b.mu.Lock()
	if !c.released {
		c.charged = true
		b.held += int64(len(c.buf))
		b.link(c)
	}
	var victims []*chunk
	for excess := b.held - b.limit; excess > 0 && b.oldest != b.newest; {
		victim := b.oldest
		excess -= int64(len(victim.buf))
		b.forget(victim)
		victims = append(victims, victim)
	}
	b.mu.Unlock()
	for _, victim := range victims {
		victim.ring.dropThrough(victim)
		victim.ring.fell()
	}
}

// release says that a ring has dropped chunks.
func (b *budget) release(chunks []*chunk) {
	if len(chunks) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range chunks {
		b.forget(c)
	}
}

func (b *budget) size() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held
}

// link puts c at the newest end. mu is held.
func (b *budget) link(c *chunk) {
	c.older = b.newest
	if b.newest != nil {
		b.newest.newer = c
	} else {
		b.oldest = c
	}
	b.newest = c
}

// forget takes c out, once. mu is held.
func (b *budget) forget(c *chunk) {
	if c.released {
		return
	}
	c.released = true
	if !c.charged {
		return // it was dropped before its charge came
	}
	b.held -= int64(len(c.buf))
	if c.older != nil {
		c.older.newer = c.newer
	} else {
		b.oldest = c.newer
	}
	if c.newer != nil {
		c.newer.older = c.older
	} else {
		b.newest = c.older
	}
	c.older, c.newer = nil, nil
}
