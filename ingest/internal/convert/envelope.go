package convert

import (
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// The context attributes, in the order in which the event's JSON has them.
const (
	specVersion = iota
	id
	eventType
	source
	dataContentType
	dataSchema
	subject
	eventTime
	attributes
)

var attributeNames = [attributes]string{
	"specversion", "id", "type", "source", "datacontenttype", "dataschema", "subject", "time",
}

// maxExtensions bounds the extensions of one event, and with them the work of finding
// one that is given twice. The cloud's own services set eight.
const maxExtensions = 64

// envelope is an event between reading and writing. Everything in it aliases the record.
type envelope struct {
	context [attributes][]byte // text; nil if absent
	seen    [attributes]bool

	extensions [maxExtensions]extension
	count      int // of extensions
	hasCursor  bool
	structured bool // the record's value holds all of it

	dataKind dataKind
	data     []byte
}

type extension struct {
	name    string
	value   []byte
	literal bool // value is a JSON number or boolean, not text
}

// set takes one attribute or extension. A literal value is JSON that is not a string.
func (e *envelope) set(name string, value []byte, literal bool) error {
	if !utf8.Valid(value) {
		return errUTF8
	}
	i := attributeIndex(name)
	if i < 0 {
		return e.extend(extension{name, value, literal})
	}
	if literal {
		return errValue
	}
	if e.seen[i] {
		return errTwice
	}
	e.seen[i] = true
	if len(value) > 0 {
		e.context[i] = value
	}
	return nil
}

func (e *envelope) extend(x extension) error {
	// A member "data" that comes from an extension would pass for the payload.
	if !validName(x.name) || x.name == "data" {
		return errName
	}
	if _, ok := e.extension(x.name); ok {
		return errTwice
	}
	if e.count == maxExtensions {
		return errTooMany
	}
	e.extensions[e.count] = x
	e.count++
	e.hasCursor = e.hasCursor || x.name == "cursor"
	return nil
}

func (e *envelope) extension(name string) ([]byte, bool) {
	for i := range e.extensions[:e.count] {
		if x := &e.extensions[i]; x.name == name {
			return x.value, true
		}
	}
	return nil, false
}

// check says what is wrong with the attributes once all of them are set.
func (e *envelope) check() error {
	switch {
	case e.context[specVersion] == nil:
		return errNotCloudEvent
	case string(e.context[specVersion]) != "1.0":
		return errSpecVersion
	case e.context[id] == nil:
		return errID
	case e.context[eventType] == nil:
		return errType
	case e.context[source] == nil:
		return errSource
	}
	if text := e.context[eventTime]; text != nil && !isRFC3339(text) {
		return errTime
	}
	return nil
}

// isRFC3339 says whether text is a time of RFC 3339, without its rarities that many
// clients cannot read: lower-case t and z, and leap seconds.
func isRFC3339(text []byte) bool {
	var t time.Time
	if t.UnmarshalText(text) != nil {
		return false
	}
	// The library also takes hours of one digit, decimal commas and zones beyond a day
	// (go.dev/issue/54580).
	const hour, fraction = len("2006-01-02T15"), len("2006-01-02T15:04:05")
	if text[hour] != ':' || text[fraction] == ',' {
		return false
	}
	if text[len(text)-1] == 'Z' {
		return true
	}
	zone := text[len(text)-len("07:00"):]
	return string(zone[:2]) < "24" && string(zone[3:]) < "60"
}

// sizeHint is the length of the JSON, or a little more, unless much has to be escaped.
func (e *envelope) sizeHint() int {
	const perMember = len(`,"":""`)
	n := len("{}") + len("data_base64") + perMember
	if e.dataKind == payload && kindOf(e.context[dataContentType]) == other {
		n += (len(e.data) + 2) / 3 * 4
	} else {
		n += len(e.data) + len(e.data)/32
	}
	for i, value := range e.context {
		n += len(attributeNames[i]) + len(value) + perMember
	}
	for _, x := range e.extensions[:e.count] {
		n += len(x.name) + len(x.value) + perMember
	}
	return n + len("origin")
}

// appendTo appends the event's JSON to b.
func (e *envelope) appendTo(b []byte) []byte {
	b = append(b, `{"specversion":"1.0"`...)
	for i := id; i < attributes; i++ {
		if value := e.context[i]; value != nil {
			b = appendText(appendName(b, attributeNames[i]), value)
		}
	}
	b = e.appendData(b)
	for i := range e.extensions[:e.count] {
		b = e.appendExtension(b, &e.extensions[i])
	}
	return append(b, '}')
}

func (e *envelope) appendExtension(b []byte, x *extension) []byte {
	name := x.name
	if e.hasCursor {
		switch name {
		case "origincursor":
			return b
		case "cursor":
			name = "origincursor"
		}
	}
	b = appendName(b, name)
	if x.literal {
		return append(b, x.value...)
	}
	return appendText(b, x.value)
}

// appendName appends a member's name behind another member. It needs no escapes.
func appendName(b []byte, name string) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	return append(b, '"', ':')
}

// appendText appends text, which must be UTF-8, as a JSON string with as few escapes as
// possible.
func appendText(b, text []byte) []byte {
	b, _ = jsontext.AppendQuote(b, text) // its only error is invalid UTF-8
	return b
}

func attributeIndex(name string) int {
	switch name {
	case "specversion":
		return specVersion
	case "id":
		return id
	case "type":
		return eventType
	case "source":
		return source
	case "datacontenttype":
		return dataContentType
	case "dataschema":
		return dataSchema
	case "subject":
		return subject
	case "time":
		return eventTime
	}
	return -1
}

func validName(name string) bool {
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}
