package convert

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
)

var extensionName = regexp.MustCompile(`^[a-z0-9]+$`)

var memberOrder = []string{"specversion", "id", "type", "source", "datacontenttype", "dataschema", "subject", "time", "data", "data_base64"}

// checkEvent fails the test if e is not what every event must be: one line of compact
// JSON with unique members in order that the CloudEvents SDK reads.
func checkEvent(t *testing.T, e Event) {
	t.Helper()
	if !utf8.Valid(e.JSON) || bytes.ContainsAny(e.JSON, "\n\r") || !bytes.HasSuffix(e.JSON, []byte("}")) {
		t.Fatalf("not one line of UTF-8 that ends in a brace: %q", e.JSON)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, e.JSON); err != nil || !bytes.Equal(compact.Bytes(), e.JSON) {
		t.Fatalf("not compact JSON: %s, %v", e.JSON, err)
	}
	list := membersOf(t, e.JSON)
	checkOrder(t, list)
	text := make(map[string]string)
	for _, m := range list {
		if s, ok := textOf(m.value); ok {
			text[m.name] = s
		}
	}
	if e.Application == "" || e.Channel != text["subject"] || e.HasChannel != (text["subject"] != "") || e.HasDevice && e.Device != text["device"] {
		t.Fatalf("names %q %q %q do not fit %s", e.Application, e.Channel, e.Device, e.JSON)
	}
	if _, err := readBySDK(e.JSON, list); err != nil {
		if why := beyondSDK(list); why == "" {
			t.Fatalf("the SDK refuses %s: %v", e.JSON, err)
		}
	}
}

type member struct {
	name  string
	value json.RawMessage
}

func membersOf(t *testing.T, object []byte) []member {
	t.Helper()
	var list []member
	d := json.NewDecoder(bytes.NewReader(object))
	_, err := d.Token()
	for err == nil && d.More() {
		var m member
		var name json.Token
		if name, err = d.Token(); err == nil {
			m.name = name.(string)
			err = d.Decode(&m.value)
			list = append(list, m)
		}
	}
	if err != nil {
		t.Fatalf("read members of %s: %v", object, err)
	}
	return list
}

func checkOrder(t *testing.T, list []member) {
	t.Helper()
	seen := make(map[string]bool)
	last := -1
	for _, m := range list {
		place := slices.Index(memberOrder, m.name)
		if place < 0 {
			place = len(memberOrder)
			if !extensionName.MatchString(m.name) || m.name == "cursor" {
				t.Fatalf("extension %q in %v", m.name, list)
			}
		}
		if seen[m.name] || place < last {
			t.Fatalf("member %q is out of order or repeated in %v", m.name, list)
		}
		seen[m.name] = true
		last = place
	}
	for _, name := range memberOrder[:4] {
		if !seen[name] {
			t.Fatalf("no %s in %v", name, list)
		}
	}
	if seen["data"] && seen["data_base64"] {
		t.Fatalf("both data and data_base64 in %v", list)
	}
}

// textOf is a JSON string's text, or a number or boolean as it stands.
func textOf(value json.RawMessage) (string, bool) {
	if value[0] != '"' {
		return string(value), true
	}
	var s string
	err := json.Unmarshal(value, &s)
	return s, err == nil
}

// readBySDK reads an event with the CloudEvents SDK. The SDK knows only two types of
// JSON and wants a string for all others, so data of another JSON type is shown to it as
// application/json.
func readBySDK(object []byte, list []member) (event.Event, error) {
	var out event.Event
	for _, m := range list {
		if m.name != "datacontenttype" {
			continue
		}
		if contentType, ok := textOf(m.value); ok && kindOf([]byte(contentType)) == jsonContent {
			from := append([]byte(`"datacontenttype":`), m.value...)
			object = bytes.Replace(object, from, []byte(`"datacontenttype":"application/json"`), 1)
		}
	}
	err := out.UnmarshalJSON(object)
	return out, err
}

// beyondSDK says which of the known limits of the SDK an event exceeds, "" if none.
func beyondSDK(list []member) string {
	contentType := ""
	for _, m := range list {
		text, _ := textOf(m.value)
		switch {
		case hasHugeNumber(m.value):
			return "it loses its place behind a number that no float64 holds"
		case m.name == "source":
			if _, err := url.Parse(text); err != nil {
				return "it reads source as a URL"
			}
		case m.name == "datacontenttype":
			contentType = text
		case m.name == "data" && m.value[0] != '"':
			if _, _, err := mime.ParseMediaType(contentType); err != nil || kindOf([]byte(contentType)) != jsonContent {
				return "it wants a string for data that is not JSON"
			}
		case strings.Contains("-0123456789", string(m.value[:1])):
			if n, err := strconv.ParseFloat(text, 64); err != nil || n > 1<<31-1 || n < -1<<31 {
				return "its numbers are 32 bits wide"
			}
		}
	}
	return ""
}

func hasHugeNumber(value json.RawMessage) bool {
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	for {
		token, err := d.Token()
		if err != nil {
			return false
		}
		if n, ok := token.(json.Number); ok {
			if _, err := n.Float64(); err != nil {
				return true
			}
		}
	}
}

// sameJSON compares JSON as values, numbers by their digits.
func sameJSON(a, b []byte) error {
	x, err := decodeExactly(a)
	if err != nil {
		return fmt.Errorf("decode %q: %w", a, err)
	}
	y, err := decodeExactly(b)
	if err != nil {
		return fmt.Errorf("decode %q: %w", b, err)
	}
	if x, y := fmt.Sprintf("%#v", x), fmt.Sprintf("%#v", y); x != y {
		return fmt.Errorf("%s is not %s", x, y)
	}
	return nil
}

func decodeExactly(b []byte) (any, error) {
	var v any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	err := d.Decode(&v)
	return v, err
}
