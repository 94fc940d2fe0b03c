package oracle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"
)

const gapType = "io.drogue.canopy.gap.v1"

// Reasons that a gap event may give.
const (
	Retention     = "retention"
	Log           = "log"
	Future        = "future"
	Skipped       = "skipped"
	Undeliverable = "undeliverable" // to groups only
)

// Reasons lists all of them.
var Reasons = []string{Retention, Log, Future, Skipped, Undeliverable}

// Message is one that a client has received.
type Message struct {
	At          time.Time
	ID          string
	Application string
	Cursor      string
	Sum         uint64   // of its data
	Gap         *GapData // nil for other events
	Err         error    // why it is no event
}

// GapData is what a gap event says.
type GapData struct{ Reason, After, Before string }

// restarts says whether the log is not what it was: events may come again, and cursors of two
// logs cannot be compared.
func (g *GapData) restarts() bool { return g.Reason == Log || g.Reason == Future }

// Parse reads a message as it came, at that moment.
func Parse(at time.Time, text []byte) Message {
	var e struct {
		SpecVersion, ID, Type, Source, Application, Cursor string
		Data                                               json.RawMessage
	}
	m := Message{At: at}
	if err := json.Unmarshal(text, &e); err != nil {
		m.Err = fmt.Errorf("%.200s: %w", text, err)
		return m
	}
	if e.SpecVersion != "1.0" || e.ID == "" || e.Type == "" || e.Source == "" || e.Cursor == "" {
		m.Err = errors.New("no CloudEvent with a cursor: " + string(text[:min(len(text), 200)]))
		return m
	}
	m.ID, m.Application, m.Cursor = e.ID, e.Application, e.Cursor
	if e.Type != gapType {
		m.Sum = Sum(e.Data)
		return m
	}
	m.Gap = &GapData{}
	if err := json.Unmarshal(e.Data, m.Gap); err != nil {
		m.Err = fmt.Errorf("gap event %.200s: %w", text, err)
	}
	return m
}

// Sum tells JSON data from other ones, whatever blanks are in them.
func Sum(data []byte) uint64 {
	var b bytes.Buffer
	if json.Compact(&b, data) != nil {
		b.Reset()
		b.Write(data)
	}
	h := fnv.New64a()
	_, _ = h.Write(b.Bytes()) // never fails
	return h.Sum64()
}

// checkGap finds what is wrong about a gap event by itself. last is the client's place before
// it, if it had one.
func (v *Verdict) checkGap(s *Socket, m *Message, last string) {
	g := m.Gap
	v.Gaps[g.Reason]++
	switch {
	case !slices.Contains(Reasons, g.Reason):
		v.fault(Gap, s.Name, "%s has the reason %q", m.ID, g.Reason)
	case m.Application != s.Application:
		v.fault(Foreign, s.Name, "%s of %q", m.ID, m.Application)
	case last != "" && g.After > last:
		v.fault(Gap, s.Name, "%s says that %s was received, but the last was %s", m.ID, g.After, last)
	case !g.restarts() && g.Before != "" && g.After >= g.Before:
		v.fault(Gap, s.Name, "%s names nothing: from %s to %s", m.ID, g.After, g.Before)
	case g.Before != "" && m.Cursor >= g.Before:
		v.fault(Gap, s.Name, "%s has the place %s, not before %s", m.ID, m.Cursor, g.Before)
	}
}
