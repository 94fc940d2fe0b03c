package oracle

import (
	"maps"
	"slices"
	"time"
)

// progress is how far a socket has come in one lane.
type progress struct {
	next  int          // the place of the record that must come next
	gaps  int          // how many gap events had come when the last one of the lane did
	begun bool         // something came, or must have
	had   map[int]bool // places
	owed  map[int]bool // places that were passed over; whether a gap event named them
}

// socket follows what came to one.
type socket struct {
	*Socket
	truth  *Truth
	places places
	v      *Verdict
	lanes  map[string]*progress
	gaps   []*Message
	last   string // cursor of what came last
	least  string // cursor below which nothing may come, by the last gap event
}

func (t *Truth) judgeSocket(of *Socket, p places, v *Verdict) {
	s := &socket{Socket: of, truth: t, places: p, v: v, lanes: map[string]*progress{}}
	for i := range of.Messages {
		m := &of.Messages[i]
		if m.Gap != nil && m.Err == nil {
			v.checkGap(of, m, s.last)
			s.gaps, s.last, s.least = append(s.gaps, m), m.Cursor, m.Gap.Before
			continue
		}
		v.Events++
		if r := t.record(of, m, v); r != nil {
			s.took(m, r)
		}
	}
	for _, lane := range t.sortedLanes(of.Application) {
		s.end(lane)
	}
}

// took notes an event.
func (s *socket) took(m *Message, r *record) {
	if behindGap := len(s.gaps) > 0 && s.last == s.gaps[len(s.gaps)-1].Cursor; m.Cursor <= s.last && !behindGap {
		s.v.fault(Cursor, s.Name, "%s of %s comes behind %s", m.Cursor, r.ID, s.last)
	}
	if m.Cursor < s.least {
		s.v.fault(Gap, s.Name, "%s of %s comes behind a gap event, before which was %s", m.Cursor, r.ID, s.least)
	}
	s.last = m.Cursor
	p := s.lane(r.Lane)
	switch again := slices.ContainsFunc(s.gaps[p.gaps:], func(g *Message) bool { return g.Gap.restarts() }); {
	case r.place >= p.next:
		s.passOver(p, r.Lane, r.place)
	case p.had[r.place] && !again:
		s.v.fault(Repeat, s.Name, "%s (%s at %d), cursor %s", r.ID, r.Lane, r.Offset, m.Cursor)
		return
	case !p.had[r.place] && !again && p.begun:
		s.v.fault(Order, s.Name, "%s (%s at %d), cursor %s: place %d came before", r.ID, r.Lane, r.Offset, m.Cursor, p.next-1)
		p.had[r.place] = true
		return
	}
	if p.had[r.place] {
		s.v.Renewed++
	}
	p.had[r.place], p.begun = true, true
	p.next, p.gaps = r.place+1, len(s.gaps)
}

// lane is the socket's progress in a lane, which begins with the first record that was made
// when the socket was open.
func (s *socket) lane(name string) *progress {
	p := s.lanes[name]
	if p == nil {
		p = &progress{had: map[int]bool{}, owed: map[int]bool{}}
		p.next = firstBehind(s.truth.lanes[s.Application][name], s.Opened)
		s.lanes[name] = p
	}
	return p
}

// firstBehind is the place of the first record that was made after a moment.
func firstBehind(list []*record, at time.Time) int {
	for place, r := range list {
		if r.Made.After(at) {
			return place
		}
	}
	return len(list)
}

// passOver notes what did not come from the next place up to, without, another one.
func (s *socket) passOver(p *progress, lane string, to int) {
	list := s.truth.lanes[s.Application][lane]
	for place := p.next; place < to; place++ {
		if !p.had[place] {
			p.owed[place] = slices.ContainsFunc(s.gaps[p.gaps:], func(g *Message) bool { return s.places.names(g, list[place]) })
		}
	}
}

// end looks at what a lane has not brought.
func (s *socket) end(name string) {
	p, list := s.lane(name), s.truth.lanes[s.Application][name]
	if s.Open {
		s.passOver(p, name, len(list))
	}
	for _, place := range slices.Sorted(maps.Keys(p.owed)) {
		switch r := list[place]; {
		case p.had[place]:
		case p.owed[place]:
			s.v.Named++
		default:
			s.v.fault(Hole, s.Name, "%s (%s at %d) did not come; it was seen as %v", r.ID, name, r.Offset, s.places[r.ID])
		}
	}
}
