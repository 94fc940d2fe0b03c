// Package oracle judges what clients of Canopy have received by what Kafka holds. It knows
// nothing of Canopy's code, only what is promised to clients: every record of an application
// comes to each of its sockets from its handshake on, once and in the order of its partition,
// and to each group at least once, less what gap events have named; a cursor names one event
// for ever, and cursors of one log sort as text.
package oracle

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Record is one entry of Kafka.
type Record struct {
	Application string
	ID          string // of its event; no two records share one
	Lane        string // its partition; a topic that was made again has other ones
	Offset      int64
	Sum         uint64    // of its data, by Sum
	Made        time.Time // a moment at which nobody had it yet
}

// Truth is what Kafka holds.
type Truth struct {
	records map[string]*record              // by ID
	lanes   map[string]map[string][]*record // by application and lane, in order
}

type record struct {
	Record
	place int // in its lane, from 0
}

// NewTruth takes all records that Kafka holds, or has held, in any order.
func NewTruth(records []Record) (*Truth, error) {
	t := &Truth{records: map[string]*record{}, lanes: map[string]map[string][]*record{}}
	for _, r := range records {
		if other := t.records[r.ID]; other != nil {
			return nil, fmt.Errorf("two records have the id %s: at %d and %d of %s", r.ID, other.Offset, r.Offset, r.Lane)
		}
		one := &record{Record: r}
		t.records[r.ID] = one
		lanes := t.lanes[r.Application]
		if lanes == nil {
			lanes = map[string][]*record{}
			t.lanes[r.Application] = lanes
		}
		lanes[r.Lane] = append(lanes[r.Lane], one)
	}
	for _, lanes := range t.lanes {
		for _, list := range lanes {
			slices.SortFunc(list, func(a, b *record) int { return int(a.Offset - b.Offset) })
			for place, r := range list {
				r.place = place
			}
		}
	}
	return t, nil
}

// Len is how many records there are.
func (t *Truth) Len() int { return len(t.records) }

// Socket is what one client has received: over one socket, or over several of which each came
// back behind the last cursor of the one before.
type Socket struct {
	Name        string
	Application string
	Opened      time.Time // just after the first answer 101; zero if it asked for everything
	Open        bool      // it has waited until the end, so nothing may be on its way
	Messages    []Message // in the order in which they came
}

// Group is what the sockets of one group have received.
type Group struct {
	Name        string
	Application string
	Opened      time.Time // just after the 101 of its first member
	Members     []Socket
}

// Kinds of a Fault.
const (
	Hole    = "hole"    // a record did not come, and no gap event named it
	Repeat  = "repeat"  // a record came again, and no gap event allowed it
	Order   = "order"   // a record came behind a later one of its partition
	Foreign = "foreign" // an event, or a gap event, of another application
	Unknown = "unknown" // an event that never was in Kafka
	Altered = "altered" // an event whose data are not its record's
	Cursor  = "cursor"  // one that names two events, or does not sort behind the one before
	Gap     = "gap"     // a gap event that contradicts what came
	Text    = "text"    // a message that is no event
)

// Fault is a broken promise.
type Fault struct {
	Kind, Client, Text string
}

func (f Fault) String() string { return f.Client + ": " + f.Kind + ": " + f.Text }

// Verdict is what was found.
type Verdict struct {
	Events  int            // that came to sockets and members
	Gaps    map[string]int // gap events by reason
	Named   int            // records that did not come to a socket or group, and were named by a gap event
	Renewed int            // events that came again to a socket behind a gap event that allows it
	Shared  int            // events that came again to a group
	Counts  map[string]int // faults by kind
	Faults  []Fault        // the first of each kind
}

// mostFaults of each kind are told in full.
const mostFaults = 8

func (v *Verdict) fault(kind, client, format string, args ...any) {
	v.Counts[kind]++
	if v.Counts[kind] <= mostFaults {
		v.Faults = append(v.Faults, Fault{kind, client, fmt.Sprintf(format, args...)})
	}
}

// Broken says whether any promise was.
func (v *Verdict) Broken() bool { return len(v.Counts) > 0 }

func (v *Verdict) String() string {
	return fmt.Sprintf("%d events; gap events %v, which named %d records that did not come; %d events again behind gap events, %d again to groups; faults %v",
		v.Events, v.Gaps, v.Named, v.Renewed, v.Shared, v.Counts)
}

// Judge looks at everything that was received.
func (t *Truth) Judge(sockets []Socket, groups []Group) *Verdict {
	v := &Verdict{Gaps: map[string]int{}, Counts: map[string]int{}}
	places := t.learn(sockets, groups, v)
	for i := range sockets {
		t.judgeSocket(&sockets[i], places, v)
	}
	for i := range groups {
		t.judgeGroup(&groups[i], places, v)
	}
	return v
}

// places are the cursors under which each record was seen by anybody: several, if the log lost
// it and it came again.
type places map[string][]string

// learn collects places, and finds cursors that were given to two events.
func (t *Truth) learn(sockets []Socket, groups []Group, v *Verdict) places {
	p, owners := places{}, map[string]string{}
	look := func(s *Socket) {
		for i := range s.Messages {
			m := &s.Messages[i]
			if m.Err != nil || m.Gap != nil || m.Cursor == "" {
				continue
			}
			switch owner, taken := owners[m.Cursor]; {
			case !taken:
				owners[m.Cursor] = m.ID
				p[m.ID] = append(p[m.ID], m.Cursor)
			case owner != m.ID:
				v.fault(Cursor, s.Name, "%s names %s, and %s", m.Cursor, owner, m.ID)
				if !slices.Contains(p[m.ID], m.Cursor) {
					p[m.ID] = append(p[m.ID], m.Cursor)
				}
			}
		}
	}
	for i := range sockets {
		look(&sockets[i])
	}
	for _, g := range groups {
		for i := range g.Members {
			look(&g.Members[i])
		}
	}
	return p
}

// names says whether a gap event may speak of a record: it came after the record was made,
// and the record's place, if anybody has seen it, is in between.
func (p places) names(gap *Message, r *record) bool {
	if !r.Made.Before(gap.At) {
		return false
	}
	g, seen := gap.Gap, p[r.ID]
	if g.restarts() || len(seen) == 0 {
		return true
	}
	return slices.ContainsFunc(seen, func(at string) bool {
		return (g.After == "" || at > g.After) && (g.Before == "" || at < g.Before)
	})
}

// record finds the record of an event that came to s. It is nil if the event is none that
// could have come, which is a fault.
func (t *Truth) record(s *Socket, m *Message, v *Verdict) *record {
	r := t.records[m.ID]
	switch {
	case m.Err != nil:
		v.fault(Text, s.Name, "%v", m.Err)
		return nil
	case r == nil:
		v.fault(Unknown, s.Name, "%s, cursor %s", m.ID, m.Cursor)
		return nil
	case r.Application != s.Application || m.Application != "" && m.Application != s.Application:
		v.fault(Foreign, s.Name, "%s of %s, cursor %s", m.ID, r.Application, m.Cursor)
		return nil
	case m.Sum != r.Sum:
		v.fault(Altered, s.Name, "%s, cursor %s", m.ID, m.Cursor)
	}
	return r
}

// sortedLanes are those of an application, by name.
func (t *Truth) sortedLanes(application string) []string {
	return slices.Sorted(maps.Keys(t.lanes[application]))
}
