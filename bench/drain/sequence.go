package drain

import "slices"

// maxSpans bounds what one socket remembers of its holes. Beyond it the oldest hole
// stays counted, but an event that comes late for it counts as a repeat.
const maxSpans = 64

// span is a run of counters that have not come, both ends included.
type span struct{ from, to uint64 }

// sequence watches the counters of one socket, which must go up by one.
type sequence struct {
	next    uint64 // 0 until the first event says where the socket starts
	missing []span
}

// see counts in c what is wrong with n as the next counter: the events left out before
// it, or that it came late, or again.
func (s *sequence) see(n uint64, c *Snapshot) {
	switch {
	case n == s.next || s.next == 0:
		s.next = n + 1
	case n > s.next:
		c.Holes += n - s.next
		if len(s.missing) == maxSpans {
			s.missing = slices.Delete(s.missing, 0, 1)
		}
		s.missing = append(s.missing, span{s.next, n - 1})
		s.next = n + 1
	case s.fill(n):
		c.Holes--
		c.Reorders++
	default:
		c.Repeats++
	}
}

// share is see for a socket that gets only some of the events: all holds what any of
// those that share them has had.
func (s *sequence) share(n uint64, all *Numbers, c *Snapshot) {
	if !all.Add(n) {
		c.Repeats++
		return
	}
	if n < s.next {
		c.Reorders++
	}
	s.next = max(s.next, n+1)
}

// fill takes n out of what is missing. It is false if n was not missing.
func (s *sequence) fill(n uint64) bool {
	for i, m := range s.missing {
		if n < m.from || n > m.to {
			continue
		}
		var rest []span
		if m.from < n {
			rest = append(rest, span{m.from, n - 1})
		}
		if n < m.to {
			rest = append(rest, span{n + 1, m.to})
		}
		s.missing = slices.Replace(s.missing, i, i+1, rest...)
		return true
	}
	return false
}
