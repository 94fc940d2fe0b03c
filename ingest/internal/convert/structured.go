package convert

import (
	"bytes"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// readStructured reads an event that is one JSON object.
func (e *envelope) readStructured(value []byte) error {
	object, err := appendCompact(nil, value)
	if err != nil || object[0] != '{' {
		return errJSON
	}
	if deeperThan(maxDepth, object) {
		return errDepth
	}
	var data, base64 []byte
	for m := newMembers(object); m.next(); {
		switch m.name {
		case "data":
			err = once(&data, m.value)
		case "data_base64":
			err = once(&base64, m.value)
		default:
			err = e.setJSON(m.name, m.value)
		}
		if err != nil {
			return err
		}
	}
	if e.context[specVersion] == nil {
		return errSpecVersion
	}
	return e.setData(data, base64)
}

func once(field *[]byte, value []byte) error {
	if *field != nil {
		return errTwice
	}
	*field = value
	return nil
}

// setJSON takes an attribute or extension whose value is JSON.
func (e *envelope) setJSON(name string, value []byte) error {
	switch value[0] {
	case 'n':
		return nil
	case '{', '[':
		return errValue
	case '"':
		return e.set(name, unquote(value), false)
	}
	return e.set(name, value, true)
}

// setData takes the members data and data_base64, nil where absent. Serializers that
// write out every absent member as null are common, so a null never clashes.
func (e *envelope) setData(data, base64 []byte) error {
	if string(base64) == "null" {
		base64 = nil
	}
	if base64 == nil {
		if data != nil {
			e.dataKind, e.data = jsonData, data
		}
		return nil
	}
	if data != nil && string(data) != "null" {
		return errBothData
	}
	if base64[0] != '"' {
		return errBase64
	}
	if base64 = unquote(base64); !isBase64(base64) {
		return errBase64
	}
	e.dataKind, e.data = base64Data, base64
	return nil
}

// isBase64 says whether text is padded standard base64 without line breaks (RFC 4648, 4).
func isBase64(text []byte) bool {
	if len(text)%4 != 0 {
		return false
	}
	digits := bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("=")), []byte("="))
	for _, c := range digits {
		if !('A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '+' || c == '/') {
			return false
		}
	}
	return true
}

// unquote is the text of a valid JSON string. It aliases quoted if that has no escapes.
func unquote(quoted []byte) []byte {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1]
	}
	text, _ := jsontext.AppendUnquote(nil, quoted) // it has been validated
	return text
}

// members walks over the members of a JSON object that is valid and compact.
type members struct {
	json  []byte
	text  string // json again, so that names cost one allocation in all
	at    int    // behind the brace or comma before the next member
	name  string
	value []byte
}

func newMembers(object []byte) members {
	return members{json: object, text: string(object), at: len("{")}
}

// next steps to the next member; false means that there is none.
func (m *members) next() bool {
	if m.at >= len(m.json) || m.json[m.at] == '}' {
		return false
	}
	end := m.at + valueLen(m.json[m.at:])
	m.name = m.text[m.at+1 : end-1]
	if strings.IndexByte(m.name, '\\') >= 0 {
		m.name = string(unquote(m.json[m.at:end]))
	}
	m.at = end + len(":")
	end = m.at + valueLen(m.json[m.at:])
	m.value = m.json[m.at:end]
	m.at = end + len(",")
	return true
}

// valueLen is the length of the value that json, which is valid and compact, begins with.
func valueLen(json []byte) int {
	depth := 0
	for i := 0; i < len(json); i++ {
		switch json[i] {
		case '"':
			i += stringLen(json[i:]) - 1
		case '{', '[':
			depth++
		case '}', ']':
			depth--
			if depth < 0 {
				return i
			}
		case ',', ':':
			if depth == 0 {
				return i
			}
		}
	}
	return len(json)
}

func stringLen(json []byte) int {
	for i := 1; i < len(json); i++ {
		switch json[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(json)
}
