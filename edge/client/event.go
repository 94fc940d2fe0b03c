package client

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// gapType is the CloudEvents type of a gap event.
const gapType = "io.drogue.canopy.gap.v1"

// gapSource is the source of gap events.
const gapSource = "canopy:edge"

// Event is a CloudEvent that has arrived.
type Event struct {
	// ID, Source and Type are what every CloudEvent has.
	ID, Source, Type string

	// Subject is the channel, Device what the event comes from, Sender what sent it on its
	// behalf, and Application whose event it is; "" where the event does not say.
	Subject, Application, Device, Sender string

	// Time is when it happened; zero if the event does not say.
	Time time.Time

	// ContentType is the type of the data; "" if the event does not say.
	ContentType string

	// Data is the event's data: JSON as it was sent, numbers with all their digits, or what
	// data_base64 holds, which Binary tells. nil if the event has none.
	Data   []byte
	Binary bool

	// Cursor is the event's place in the log: Config.Since begins behind it.
	Cursor string

	// Gap is set if this is no event of a device, but word of the edge that events may be
	// missing in front of the next one.
	Gap *Gap

	// JSON is the whole event as it was received, with all its extensions; nil if the client
	// itself tells of a gap.
	JSON []byte
}

// Gap says which events may be missing: those behind After and before Before.
type Gap struct {
	Reason  string `json:"reason"`  // retention, log, future, skipped, undeliverable or GapTooBig
	After   string `json:"after"`   // cursor of the last event that the client had; "" if unknown
	Before  string `json:"before"`  // cursor where events go on; "" if unknown
	Message string `json:"message"` // for people

	// Event is the cursor of the one event that is missing, and Bytes its size; "" and 0 if there
	// may be others.
	Event string `json:"event"`
	Bytes int64  `json:"bytes"`
}

// GapTooBig is the Reason of a Gap that the client itself tells of: a message was larger than
// Config.MaxMessage.
const GapTooBig = "too-big"

// Text gives data that is a JSON string as the text in it, and other data as it is.
func (e Event) Text() string {
	var text string
	if !e.Binary && json.Unmarshal(e.Data, &text) == nil {
		return text
	}
	return string(e.Data)
}

// envelope are the members of a CloudEvent that Event has.
type envelope struct {
	SpecVersion string          `json:"specversion"`
	ID          string          `json:"id"`
	Source      string          `json:"source"`
	Type        string          `json:"type"`
	Subject     string          `json:"subject"`
	Time        string          `json:"time"`
	ContentType string          `json:"datacontenttype"`
	Data        json.RawMessage `json:"data"`
	Base64      *string         `json:"data_base64"`
	Application string          `json:"application"`
	Device      string          `json:"device"`
	Sender      string          `json:"sender"`
	Cursor      string          `json:"cursor"`
}

// parse reads a message, which it keeps.
func parse(message []byte) (Event, error) {
	var in envelope
	if err := json.Unmarshal(message, &in); err != nil {
		return Event{}, fmt.Errorf("read event: %w", err)
	}
	if in.SpecVersion == "" || in.Type == "" {
		return Event{}, errors.New("read event: the message is no CloudEvent: does Canopy answer at this address?")
	}
	e := Event{
		ID: in.ID, Source: in.Source, Type: in.Type, Subject: in.Subject,
		Application: in.Application, Device: in.Device, Sender: in.Sender,
		ContentType: in.ContentType, Data: in.Data, Cursor: in.Cursor, JSON: message,
	}
	if in.Time != "" {
		// A time that is none is the sender's mistake, and stays in JSON.
		e.Time, _ = time.Parse(time.RFC3339Nano, in.Time)
	}
	if in.Base64 != nil {
		data, err := base64.StdEncoding.DecodeString(*in.Base64)
		if err != nil {
			return Event{}, fmt.Errorf("read data of event %q: %w", in.ID, err)
		}
		e.Data, e.Binary = data, true
	}
	if gap := new(Gap); in.Type == gapType && in.Source == gapSource && json.Unmarshal(in.Data, gap) == nil {
		e.Gap = gap // else a device has chosen that type: an event like any other
	}
	return e, nil
}

// tooBig tells of a message of which only the end was read: its cursor is the last member. It
// gives an Event without a Gap for a message that is whole.
func tooBig(application string, end []byte, size int64) Event {
	if int64(len(end)) == size {
		return Event{}
	}
	var cursor string
	if i := bytes.LastIndex(end, []byte(cursorMember)); i >= 0 {
		cursor, _, _ = strings.Cut(string(end[i+len(cursorMember):]), `"`)
	}
	return Event{
		ID: "too-big/" + cursor, Source: "canopy:client", Type: gapType, Application: application, Time: time.Now(), Cursor: cursor,
		Gap: &Gap{Reason: GapTooBig, Event: cursor, Bytes: size, Message: fmt.Sprintf("an event of %d bytes is larger than this client takes", size)},
	}
}

// cursorMember is how the edge begins the last member of every event.
const cursorMember = `,"cursor":"`
