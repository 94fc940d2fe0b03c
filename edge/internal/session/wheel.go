package session

import "sync"

// slots is the number of seconds that the wheel looks ahead; what is due later is looked
// at in between.
const (
	slots    = 64
	maxDelay = slots - 2
)

// link is a session's place in the wheel, guarded by the wheel.
type link struct {
	next, prev *Session
	at         uint32 // second of the next look
	soon       uint32 // second that hasten asked for while it was not linked, 0 if none
	linked     bool
	added      bool
	removed    bool
	left       bool // its access; guarded by the registry's accesses, and here for want of room
}

// wheel holds every session under the second at which something may be due, and so needs
// one goroutine and no timer for all of them.
//
// Any goroutine may add, hasten and remove. Several may take and put at a time, each what
// it took itself, for one second after the other; all waits until everything was put back.
type wheel struct {
	mu    sync.Mutex // guards the links of all sessions
	slots [slots]*Session
	size  int
	spun  uint32 // seconds up to here were taken
}

// add puts s under second at, unless limit sessions are in already.
func (w *wheel) add(s *Session, at uint32, limit int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.size >= limit {
		return false
	}
	w.size++
	s.added = true
	w.link(s, at)
	return true
}

// hasten has s looked at within delay seconds from the last turn.
func (w *wheel) hasten(s *Session, delay uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := w.spun + delay
	switch {
	case !s.linked:
		s.soon = at // it is being looked at, perhaps as it was before; put will know
	case at < s.at:
		w.unlink(s)
		w.link(s, at)
	}
}

// remove takes s out for good. It says whether s was in.
func (w *wheel) remove(s *Session) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !s.added || s.removed {
		return false
	}
	s.removed = true
	if s.linked {
		w.unlink(s)
	}
	w.size--
	return true
}

// take unlinks up to len(into) sessions that are due at second at. They must be put back.
func (w *wheel) take(at uint32, into []*Session) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for ; n < len(into) && w.slots[at%slots] != nil; n++ {
		into[n] = w.slots[at%slots]
		w.unlink(into[n])
	}
	if n == 0 {
		w.spun = at
	}
	return n
}

// put links s again, unless it was removed meanwhile.
func (w *wheel) put(s *Session, at uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.soon != 0 {
		at, s.soon = min(at, s.soon), 0
	}
	if !s.removed {
		w.link(s, at)
	}
}

// all lists the sessions. It must not be called between take and put.
func (w *wheel) all() []*Session {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]*Session, 0, w.size)
	for _, s := range w.slots {
		for ; s != nil; s = s.next {
			list = append(list, s)
		}
	}
	return list
}

func (w *wheel) len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.size
}

// link puts s under second at, but not under one that was taken or is too far. mu is held.
func (w *wheel) link(s *Session, at uint32) {
	at = max(w.spun+1, min(at, w.spun+maxDelay))
	head := &w.slots[at%slots]
	s.at, s.linked = at, true
	s.prev, s.next = nil, *head
	if *head != nil {
		(*head).prev = s
	}
	*head = s
}

// unlink takes s out of its slot. mu is held.
func (w *wheel) unlink(s *Session) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		w.slots[s.at%slots] = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	s.next, s.prev, s.linked = nil, nil, false
}
