// Package convert turns one Kafka record into one CloudEvent in JSON format, ready for
// the log. It does no input or output, keeps no state and knows no Kafka client.
//
//	record                            event
//	binary mode:                      one line of compact JSON, members in this order:
//	  ce_… headers  ─► attributes ─►    specversion, id, type, source, datacontenttype,
//	  content-type  ─► datacontenttype  dataschema, subject, time,
//	  value         ─► payload    ─►    data or data_base64,
//	structured mode:                    extensions in the order of their arrival
//	  value is the event's JSON   ─►
//
// The mode follows from the header content-type, as the CloudEvents Kafka binding says:
// application/cloudevents+json means structured, anything else binary. Header names are
// case-insensitive. Rules that the CloudEvents specification leaves open:
//
//   - Only specversion 1.0. Version 0.3 has other attributes (schemaurl,
//     datacontentencoding), and no client of the log expects it.
//   - An attribute that is given twice is malformed, even with the same value: whoever
//     takes the first and whoever takes the last must not see different applications.
//   - An empty optional attribute is absent, an empty extension is not. In JSON, null is
//     absent. Extensions that are JSON numbers or booleans keep their form.
//   - An event's own cursor becomes origincursor, because the edge adds the cursor that
//     counts. It replaces an origincursor that the event has, too: the nearest log wins.
//   - A payload of a JSON type becomes data if it parses, with every digit, escape and
//     repeated name as it was. A payload of a text type becomes a string if it is UTF-8.
//     All others become data_base64; an empty payload becomes nothing. A JSON type that
//     does not parse is never a string: a reader would take the string for the value.
//   - In structured mode data and data_base64 stay what they are.
//   - JSON nests no deeper than the strictest of the usual parsers reads (see maxDepth).
package convert

import (
	"strings"
	"time"

	"canopy/shared/topic"
)

// Record is the part of a Kafka record that conversion needs. Its slices may alias the
// fetch buffer: Convert neither keeps nor changes them.
type Record struct {
	// Topic names the application if the event does not.
	Topic string

	// Key and Timestamp are the record's own; no rule of the conversion looks at them.
	Key       []byte
	Timestamp time.Time

	Value   []byte
	Headers []Header
}

// Header is one header of a Kafka record. A nil Value means that it is absent.
type Header struct {
	Key   string
	Value []byte
}

// Event is what becomes of a record. It shares no memory with it.
type Event struct {
	// Application is the tenant whose event this is; never empty.
	Application string

	// Channel is the attribute subject, if HasChannel.
	Channel string

	// Device is the extension device, if HasDevice.
	Device string

	HasChannel, HasDevice bool

	// JSON is the CloudEvent: one compact object in UTF-8 that ends in "}".
	JSON []byte
}

// Converter converts records. Any number of goroutines may use one Converter.
type Converter struct {
	defaultApplication string
}

// New makes a Converter. Records whose application neither the event nor the topic's
// name tells belong to defaultApplication; if that is empty they are malformed.
func New(defaultApplication string) *Converter {
	return &Converter{defaultApplication: defaultApplication}
}

// Convert turns r into an event. Every error is a *Malformed: the record can never be
// converted, and its error says why without any of its contents.
func (c *Converter) Convert(r Record) (Event, error) {
	var e envelope
	if err := e.read(r); err != nil {
		return Event{}, err
	}
	if err := e.check(); err != nil {
		return Event{}, err
	}
	application, known := c.applicationOf(&e, r.Topic)
	if application == "" && len(known) == 0 {
		return Event{}, errNoApplication
	}
	channel := e.context[subject]
	device, hasDevice := e.extension("device")

	// One string holds all three names, so that they cost one allocation.
	var b strings.Builder
	b.Grow(len(known) + len(channel) + len(device))
	b.Write(known)
	b.Write(channel)
	b.Write(device)
	names := b.String()
	if len(known) > 0 {
		application = names[:len(known)]
	}
	names = names[len(known):]
	return Event{
		Application: application,
		Channel:     names[:len(channel)],
		HasChannel:  len(channel) > 0,
		Device:      names[len(channel):],
		HasDevice:   hasDevice,
		JSON:        e.appendTo(make([]byte, 0, e.sizeHint())),
	}, nil
}

// applicationOf finds the application: the event's extension, else the topic's, else the
// default. It is a ready string where there is one, else the extension's own bytes.
func (c *Converter) applicationOf(e *envelope, topicName string) (string, []byte) {
	fromTopic, ok := topic.Application(topicName)
	own, _ := e.extension("application")
	switch {
	case len(own) > 0 && string(own) == fromTopic:
		return fromTopic, nil
	case len(own) > 0:
		return "", own
	case ok:
		return fromTopic, nil
	}
	return c.defaultApplication, nil
}

// read fills the envelope from r, in the mode that r's content type names.
func (e *envelope) read(r Record) error {
	contentType, err := contentTypeOf(r.Headers)
	if err != nil {
		return err
	}
	switch media := mediaType(contentType); {
	case equalFold(media, structuredType):
		return e.readStructured(r.Value)
	case hasPrefixFold(media, cloudEventsType):
		return errFormat
	}
	return e.readBinary(contentType, r)
}

func contentTypeOf(headers []Header) ([]byte, error) {
	var found []byte
	for i := range headers {
		if h := &headers[i]; strings.EqualFold(h.Key, "content-type") && h.Value != nil {
			if found != nil {
				return nil, errTwice
			}
			found = h.Value
		}
	}
	return found, nil
}
