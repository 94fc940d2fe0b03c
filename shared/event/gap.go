package event

import (
	"encoding/json"
	"time"
)

// GapType is the CloudEvents type of a gap event.
const GapType = "io.drogue.canopy.gap.v1"

// Reasons of a Gap.
const (
	// GapRetention says that the log has forgotten events that were asked for, or may have:
	// where its retention has passed the place, nobody can tell whose events stood there.
	GapRetention = "retention"
	// GapLog says that the place is one in another log: the stream was made anew since, or
	// the cursor belongs to another application.
	GapLog = "log"
	// GapFuture says that the place lies beyond the end of the log.
	GapFuture = "future"
	// GapSkipped says that the edge had to skip events although the log may still hold them.
	GapSkipped = "skipped"
	// GapUndeliverable says that a group goes on without one event, which the log still holds:
	// every member that was given it failed.
	GapUndeliverable = "undeliverable"
)

// HeaderBeacon marks a message without a body on an application's subject: it holds the
// cursor of the newest event that the log has acknowledged, so that an edge notices if
// that was lost on the way.
const HeaderBeacon = "Canopy-Beacon"

// Gap tells a client that events may be missing: those behind After and before Before.
type Gap struct {
	Application string
	Reason      string    // one of the constants above
	After       Cursor    // the last event that the client is known to have had; zero if unknown
	Before      Cursor    // the first event, or place, from which on everything comes; zero if unknown
	At          time.Time // when it was noticed

	// Event is the one event that is left out, and Bytes its size; zero if there may be others.
	Event Cursor
	Bytes int
}

// JSON gives the gap as a finished event: a compact CloudEvent without a cursor, to which
// AppendCursor adds the place that a client resumes behind, Before less one.
func (g Gap) JSON() []byte {
	type data struct {
		Reason  string `json:"reason"`
		After   string `json:"after,omitempty"`
		Before  string `json:"before,omitempty"`
		Event   string `json:"event,omitempty"`
		Bytes   int    `json:"bytes,omitempty"`
		Message string `json:"message"`
	}
	d := data{Reason: g.Reason, Bytes: g.Bytes, Message: gapMessages[g.Reason]}
	if g.After != (Cursor{}) {
		d.After = g.After.String()
	}
	if g.Before != (Cursor{}) {
		d.Before = g.Before.String()
	}
	if g.Event != (Cursor{}) {
		d.Event = g.Event.String()
	}
	b, _ := json.Marshal(struct { // text and times only, which always encode
		SpecVersion     string `json:"specversion"`
		ID              string `json:"id"`
		Type            string `json:"type"`
		Source          string `json:"source"`
		DataContentType string `json:"datacontenttype"`
		Time            string `json:"time"`
		Data            data   `json:"data"`
		Application     string `json:"application"`
	}{"1.0", "gap/" + d.After + "/" + d.Before, GapType, "canopy:edge", "application/json",
		g.At.UTC().Format(time.RFC3339Nano), d, g.Application})
	return b
}

var gapMessages = map[string]string{
	GapRetention: "the log no longer holds this place: events in between may be missing",
	GapLog:       "the log is another one: events may be missing",
	GapFuture:    "this place is beyond the end of the log: events may be missing, or come again",
	GapSkipped:   "events in between were skipped",

	GapUndeliverable: "no member of the group could take this event: the log still holds it, behind the place after",
}
