package group

import (
	"slices"
	"time"
)

const (
	// cededFor is how long it is remembered at least what was left to JetStream. That it is cut
	// off, an edge knows after 30 s.
	cededFor = time.Minute

	// maxCeded bounds the events of one group, in each of two such times. Of more the oldest
	// matter: a gap begins there.
	maxCeded = 64
)

// ceded are events that were left to JetStream lately and have not come back. While the edge
// is cut off, the log may forget them, and nobody hears of it.
type ceded struct {
	now, before []uint64 // since turned, and in the time before that; in order
	turned      time.Duration
}

// add notes that an event is left to JetStream.
func (c *ceded) add(seq uint64) {
	i, there := slices.BinarySearch(c.now, seq)
	if there || i == maxCeded {
		return
	}
	if len(c.now) == maxCeded {
		c.now = c.now[:maxCeded-1]
	}
	c.now = slices.Insert(c.now, i, seq)
}

// remove notes that an event has come back.
func (c *ceded) remove(seq uint64) {
	for _, list := range []*[]uint64{&c.now, &c.before} {
		if i, there := slices.BinarySearch(*list, seq); there {
			*list = slices.Delete(*list, i, i+1)
		}
	}
}

// turn forgets what was left to JetStream long ago.
func (c *ceded) turn(now time.Duration) {
	if now-c.turned >= cededFor {
		c.now, c.before, c.turned = nil, c.now, now
	}
}

// any says whether there are some.
func (c *ceded) any() bool { return len(c.now)+len(c.before) > 0 }

// takeBefore gives those before a sequence, and forgets them.
func (c *ceded) takeBefore(seq uint64) (all []uint64) {
	for _, list := range []*[]uint64{&c.before, &c.now} {
		i, _ := slices.BinarySearch(*list, seq)
		all = append(all, (*list)[:i]...)
		*list = slices.Clone((*list)[i:])
	}
	return all
}

// doubts says whether something may have been lost that nobody was sent, or that was left to
// JetStream. mu is held.
func (g *Group) doubts() bool { return g.seen.risk > 0 || g.seen.unsure && g.rotation.ceded.any() }

// lingers says whether g, which has had no member for a time, is still kept: its last messages
// come and must be handed back, or it is to be found out whether something was lost that was
// left to JetStream. mu is held.
func (g *Group) lingers(idle time.Duration, connected bool) bool {
	switch {
	case idle < linger:
		return true
	case idle >= doubtFor:
		return false
	}
	return !connected || g.doubts() || idle < cededFor && g.rotation.ceded.any()
}
