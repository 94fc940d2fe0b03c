// Package convert turns one Kafka record into one CloudEvent in JSON format, ready for
// the log. It does no input or output, remembers nothing that changes a result, and knows no
// Kafka client.
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
// case-insensitive.
//
// Whose event it is, its topic says before the event does, since a topic is what Kafka lets
// somebody write to or not. Whoever may write to the topic of one application must not
// reach another one's sockets by what the record says of itself:
//
//   - A topic that the cloud names "events-NAME" holds NAME's events. One that names another
//     application keeps its attributes, and is marked as misnamed.
//   - A topic with the form of "evt-<MD5>-…" holds the events that name the application
//     whose topic it is. Others are malformed.
//   - In topics outside that naming, the event's extension application decides, then the
//     configuration. There a record in structured mode is malformed if its header
//     ce_application names another one: the services that made the header and the device
//     that sent the value do not agree.
//
// Rules that the CloudEvents specification leaves open:
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
	"sync/atomic"
	"time"
)

// Record is the part of a Kafka record that conversion needs. Its slices may alias the
// fetch buffer: Convert neither keeps nor changes them.
type Record struct {
	// Topic says whose event it is, unless it is outside the cloud's naming.
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

	// Structured says that the record's value was the whole event.
	Structured bool

	// Misnamed says that the event names another application than Application, its
	// topic's. The name stays in JSON.
	Misnamed bool

	// JSON is the CloudEvent: one compact object in UTF-8 that ends in "}".
	JSON []byte
}

// Converter converts records. Any number of goroutines may use one Converter.
type Converter struct {
	defaultApplication string

	// lastHashed spares most records of hashed topics the MD5. It is all that is kept.
	lastHashed atomic.Pointer[hashedTopic]
}

// New makes a Converter. Records outside the topics of applications that name none belong
// to defaultApplication; if that is empty they are malformed.
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
	o, err := c.ownerOf(&e, &r)
	if err != nil {
		return Event{}, err
	}
	channel := e.context[subject]
	device, hasDevice := e.extension("device")

	// One string holds all three names, so that they cost one allocation.
	var b strings.Builder
	b.Grow(len(o.copied) + len(channel) + len(device))
	b.Write(o.copied)
	b.Write(channel)
	b.Write(device)
	names := b.String()
	application := o.application
	if len(o.copied) > 0 {
		application = names[:len(o.copied)]
	}
	names = names[len(o.copied):]
	return Event{
		Application: application,
		Channel:     names[:len(channel)],
		HasChannel:  len(channel) > 0,
		Device:      names[len(channel):],
		HasDevice:   hasDevice,
		Structured:  e.structured,
		Misnamed:    o.misnamed,
		JSON:        e.appendTo(make([]byte, 0, e.sizeHint())),
	}, nil
}

// read fills the envelope from r, in the mode that r's content type names.
func (e *envelope) read(r Record) error {
	contentType, err := contentTypeOf(r.Headers)
	if err != nil {
		return err
	}
	switch media := mediaType(contentType); {
	case equalFold(media, structuredType):
		e.structured = true
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
