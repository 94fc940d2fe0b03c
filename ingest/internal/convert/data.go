package convert

import (
	"bytes"
	"encoding/base64"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// dataKind says how an envelope holds its data.
type dataKind int

const (
	noData     dataKind = iota
	payload             // bytes whose content type decides what they become
	jsonData            // compact JSON
	base64Data          // base64 text
)

// contentKind sorts content types by what a payload can become.
type contentKind int

const (
	other contentKind = iota
	jsonContent
	textContent
)

const (
	cloudEventsType = "application/cloudevents"
	structuredType  = cloudEventsType + "+json"
)

// maxDepth is the number of objects and arrays around the innermost value of an event,
// the event itself among them. Rust's serde_json, which drg reads events with, allows
// this many; Python and Go allow more. A deeper payload becomes data_base64, a deeper
// event in structured mode is malformed.
const maxDepth = 127

// appendData appends the member data or data_base64, if there is any.
func (e *envelope) appendData(b []byte) []byte {
	switch e.dataKind {
	case payload:
		return appendPayload(b, e.context[dataContentType], e.data)
	case jsonData:
		return append(appendName(b, "data"), e.data...)
	case base64Data:
		return appendText(appendName(b, "data_base64"), e.data)
	}
	return b
}

func appendPayload(b, contentType, payload []byte) []byte {
	n := len(b)
	switch kindOf(contentType) {
	case jsonContent:
		b = appendName(b, "data")
		start := len(b)
		var err error
		if b, err = appendCompact(b, payload); err == nil && !deeperThan(maxDepth-1, b[start:]) {
			return b
		}
	case textContent:
		if utf8.Valid(payload) {
			return appendText(appendName(b, "data"), payload)
		}
	}
	b = append(appendName(b[:n], "data_base64"), '"')
	b = base64.StdEncoding.AppendEncode(b, payload)
	return append(b, '"')
}

// Repeated names are kept because JSON allows them; strings that are not Unicode (bytes
// or lone surrogates) are refused because few parsers read them.
var compactOptions = []jsontext.Options{
	jsontext.AllowDuplicateNames(true),
	jsontext.PreserveRawStrings(true),
}

// appendCompact appends the one value in json without the blanks between its tokens and
// otherwise unchanged. It is an error if json is not one value in UTF-8, or nests more
// than 10,000 deep, the library's own bound.
func appendCompact(b, json []byte) ([]byte, error) {
	return jsontext.AppendFormat(b, json, compactOptions...)
}

// deeperThan says whether valid JSON nests more than limit objects and arrays.
func deeperThan(limit int, json []byte) bool {
	// Nearly always there are too few brackets to need a closer look.
	if bytes.Count(json, []byte{'{'})+bytes.Count(json, []byte{'['}) <= limit {
		return false
	}
	depth := 0
	for i := 0; i < len(json); i++ {
		switch json[i] {
		case '"':
			i += stringLen(json[i:]) - 1
		case '{', '[':
			depth++
			if depth > limit {
				return true
			}
		case '}', ']':
			depth--
		}
	}
	return false
}

func kindOf(contentType []byte) contentKind {
	switch media := mediaType(contentType); {
	case hasPrefixFold(media, "application/json"), hasPrefixFold(media, "text/json"), hasSuffixFold(media, "+json"):
		return jsonContent
	case hasPrefixFold(media, "text/"):
		return textContent
	}
	return other
}

// mediaType is contentType without parameters and blanks around it.
func mediaType(contentType []byte) []byte {
	media, _, _ := bytes.Cut(contentType, []byte{';'})
	return bytes.TrimSpace(media)
}

// equalFold compares with lower-case ASCII without regard to case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func hasPrefixFold(b []byte, lower string) bool {
	return len(b) >= len(lower) && equalFold(b[:len(lower)], lower)
}

func hasSuffixFold(b []byte, lower string) bool {
	return len(b) >= len(lower) && equalFold(b[len(b)-len(lower):], lower)
}
