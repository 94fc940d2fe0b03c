package feed

// chain puts one application's messages into the order of their sequences. Core NATS may
// lose, repeat and delay messages; each carries the sequence before it, so the chain
// knows what is missing. It is pure: its owner reads the missing range from the stream.
//
// While held, live messages wait here in bounded memory, until those from the stream
// have come. When the room is used up they are let go, and target remembers how far the
// stream has to be read instead.
type chain struct {
	head     uint64 // sequence of the newest event in order
	verified uint64 // no stored event up to here is missing
	held     bool
	target   uint64 // at least up to here the stream must be read before the hold ends
	waiting  []message
	bytes    int
	room     waitRoom
}

// waitRoom grants memory to messages that wait.
type waitRoom interface {
	take(bytes int) bool
	give(bytes int)
}

// hold makes live messages wait until the stream has been read.
func (c *chain) hold() { c.held = true }

// live takes a republished message. It says whether the message is next in order; if
// not, and the chain is held now but was not before, there is a hole.
func (c *chain) live(m message) (next bool) {
	switch {
	case m.sequence <= c.head:
		return false // had it
	case c.held:
		c.wait(m)
		return false
	case c.next(m):
		c.head = m.sequence
		return true
	default:
		c.held = true
		c.wait(m)
		return false
	}
}

// next says whether a message that is newer than head is the next one, and may be taken.
func (c *chain) next(m message) bool {
	return !c.held && (m.previous == c.head || c.verified+1 >= m.sequence)
}

// wait keeps m, if there is room and it is newer than what waits already: of messages that
// come again, or late, one copy is enough, and that is in the stream.
func (c *chain) wait(m message) {
	c.target = max(c.target, m.sequence)
	if n := len(c.waiting); n > 0 && m.sequence <= c.waiting[n-1].sequence {
		return
	}
	if !c.room.take(m.size()) {
		return
	}
	c.bytes += m.size()
	c.waiting = append(c.waiting, m)
}

// stored takes a message that was read from the stream as the next one behind head. It
// says whether it is new.
func (c *chain) stored(m message) bool {
	c.verified = max(c.verified, m.sequence)
	if m.sequence <= c.head {
		return false
	}
	c.head = m.sequence
	return true
}

// drain gives the next waiting message that is in order and true, or false when none is
// left that is. When nothing waits any more and the target is reached, the hold ends.
func (c *chain) drain() (m message, ok bool) {
	for len(c.waiting) > 0 {
		m := c.waiting[0]
		if m.sequence > c.head && m.previous != c.head && c.verified+1 < m.sequence {
			return message{}, false // a hole: the stream must be read on
		}
		c.waiting[0] = message{}
		c.waiting = c.waiting[1:]
		c.free(m.size())
		if m.sequence > c.head {
			c.head = m.sequence
			return m, true
		}
	}
	c.waiting = nil
	if max(c.head, c.verified) >= c.target {
		c.held = false
	}
	return message{}, false
}

// known is the sequence up to which it is known what there is, and all of that is in order:
// behind head there is nothing up to here.
func (c *chain) known() uint64 {
	known := max(c.head, c.verified)
	if len(c.waiting) > 0 {
		known = min(known, max(c.head, c.waiting[0].sequence-1))
	}
	return known
}

// skip notes that the stream holds nothing more up to sequence.
func (c *chain) skip(sequence uint64) { c.verified = max(c.verified, sequence) }

// restart begins again, held, before the first message of another log.
func (c *chain) restart() {
	c.clear()
	c.head, c.verified, c.target, c.held = 0, 0, 0, true
}

func (c *chain) clear() {
	c.waiting = nil
	c.free(c.bytes)
}

func (c *chain) free(n int) {
	c.bytes -= n
	c.room.give(n)
}
