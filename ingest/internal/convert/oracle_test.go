package convert

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"

	"canopy/shared/topic"
)

// rounds is the number of events that each of the two comparisons with the SDK makes: half
// of 2,000, or of what CANOPY_TEST_RECORDS says.
func rounds(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("CANOPY_TEST_RECORDS")
	if text == "" {
		return 1_000
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n < 2 {
		t.Fatalf("CANOPY_TEST_RECORDS=%s: expected a number", text)
	}
	return n / 2
}

func TestBinaryRecordsReadByTheSDKAreTheEventsThatMadeThem(t *testing.T) {
	for i := range rounds(t) {
		g := generator{rand.New(rand.NewPCG(1, i))}
		want := g.event(false)
		r := g.binaryRecord(t, want)
		e, err := New("app").Convert(r)
		if err != nil {
			t.Fatalf("event %d: %v\n%s", i, err, want)
		}
		checkEvent(t, e)
		checkOwner(t, r, "app", e)
		got, err := readBySDK(e.JSON, membersOf(t, e.JSON))
		if err != nil {
			t.Fatalf("event %d: read %s: %v", i, e.JSON, err)
		}
		// The payload, not the flag, is what a binary record hands over.
		want.DataBase64 = got.DataBase64
		if err := sameEvent(got, want); err != nil {
			t.Fatalf("event %d: %v\n%s", i, err, e.JSON)
		}
	}
}

func TestStructuredRecordsReadByTheSDKAreTheEventsThatMadeThem(t *testing.T) {
	for i := range rounds(t) {
		g := generator{rand.New(rand.NewPCG(2, i))}
		want := g.event(true)
		value, err := json.Marshal(want)
		if err != nil {
			t.Fatalf("event %d: marshal: %v", i, err)
		}
		r := structured(string(value))
		r.Topic = g.topic(want)
		e, err := New("app").Convert(r)
		if err != nil {
			t.Fatalf("event %d: %v\n%s", i, err, value)
		}
		checkEvent(t, e)
		checkOwner(t, r, "app", e)
		var got event.Event
		if err := got.UnmarshalJSON(e.JSON); err != nil {
			t.Fatalf("event %d: read %s: %v", i, e.JSON, err)
		}
		if err := sameEvent(got, want); err != nil {
			t.Fatalf("event %d: %v\n%s\n%s", i, err, value, e.JSON)
		}
	}
}

// sameEvent compares everything that the SDK sees. Both events must have passed through
// the same representation of extensions.
func sameEvent(got, want event.Event) error {
	for _, c := range []struct{ name, got, want string }{
		{"specversion", got.SpecVersion(), want.SpecVersion()},
		{"id", got.ID(), want.ID()},
		{"type", got.Type(), want.Type()},
		{"source", got.Source(), want.Source()},
		{"subject", got.Subject(), want.Subject()},
		{"dataschema", got.DataSchema(), want.DataSchema()},
		{"time", got.Time().Format(time.RFC3339Nano), want.Time().Format(time.RFC3339Nano)},
	} {
		if c.got != c.want {
			return fmt.Errorf("%s is %q, want %q", c.name, c.got, c.want)
		}
	}
	extensions := maps.Clone(want.Extensions())
	if own, ok := extensions["cursor"]; ok {
		delete(extensions, "cursor")
		extensions["origincursor"] = own
	}
	if len(extensions)+len(got.Extensions()) > 0 && !reflect.DeepEqual(got.Extensions(), extensions) {
		return fmt.Errorf("extensions are %#v, want %#v", got.Extensions(), extensions)
	}
	if got.DataBase64 != want.DataBase64 {
		return fmt.Errorf("DataBase64 is %v, want %v", got.DataBase64, want.DataBase64)
	}
	if bytes.Equal(got.DataEncoded, want.DataEncoded) {
		return nil
	}
	isJSON := want.DataContentType() == "" || kindOf([]byte(want.DataContentType())) == jsonContent
	if got.DataBase64 || !isJSON {
		return fmt.Errorf("data is %q, want %q", got.DataEncoded, want.DataEncoded)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, want.DataEncoded); err != nil || !bytes.Equal(got.DataEncoded, compact.Bytes()) {
		return fmt.Errorf("data is %q, want %q (%w)", got.DataEncoded, want.DataEncoded, err)
	}
	return sameJSON(got.DataEncoded, want.DataEncoded)
}

// generator makes random events and records.
type generator struct{ *rand.Rand }

func (g generator) often() bool { return g.IntN(3) > 0 }

func pick[T any](g generator, list ...T) T { return list[g.IntN(len(list))] }

// event makes an event that the SDK can write: in typed mode, its extensions may be
// numbers and booleans and its data has the form that the SDK reads back.
func (g generator) event(typed bool) event.Event {
	e := event.New("1.0")
	e.SetID("i" + g.text(0))
	e.SetType("t" + g.text(0))
	e.SetSource(pick(g, "drogue://app/device", "urn:x", "/a/b?c=%20#d", "ü"))
	if g.often() {
		e.SetSubject("s" + g.text(0))
	}
	if g.often() {
		e.SetTime(time.Unix(g.Int64N(1<<32), g.Int64N(1e9)).UTC())
	}
	if !g.often() {
		e.SetDataSchema("https://example.com/schema?" + pick(g, "a", "%C3%A9"))
	}
	names := []string{"application", "device", "sender", "cursor", "origincursor", "x1", "0", "database64", "partitionkey"}
	for range g.IntN(8) {
		name := pick(g, names...)
		switch {
		case typed && name != "application" && !g.often():
			e.SetExtension(name, pick[any](g, true, false, int32(g.Uint32()), int32(0)))
		default:
			e.SetExtension(name, g.text(1))
		}
	}
	g.fill(&e, typed)
	return e
}

// fill gives e a content type and data that may or may not fit it.
func (g generator) fill(e *event.Event, typed bool) {
	contentType := pick(g, "", "application/json", "application/json; charset=utf-8", "text/json", "Application/JSON",
		"text/plain", "text/plain; charset=utf-8", "text/csv", "application/octet-stream", "application/vnd.x+json", "image/png")
	if typed {
		contentType = strings.ToLower(contentType) // the SDK reads back no other JSON type
	}
	if contentType != "" {
		e.SetDataContentType(contentType)
	}
	switch g.IntN(5) {
	case 0:
		return
	case 1:
		e.DataEncoded = g.bytes()
	case 2:
		e.DataEncoded = []byte(g.text(1))
	default:
		e.DataEncoded = []byte(g.json(4))
	}
	if !typed {
		return
	}
	// In JSON the SDK writes data of its own JSON types as it is and all other as a string.
	switch mediaType, _, _ := strings.Cut(strings.ToLower(contentType), ";"); mediaType {
	case "", "application/json", "text/json":
		e.DataBase64 = !json.Valid(e.DataEncoded) || !utf8.Valid(e.DataEncoded) || !g.often()
	default:
		e.DataBase64 = !utf8.Valid(e.DataEncoded) || !g.often()
	}
}

// binaryRecord writes e as the Kafka binding's binary mode says, with headers in any
// order, and makes e's extensions the strings that headers are.
func (g generator) binaryRecord(t *testing.T, e event.Event) Record {
	t.Helper()
	r := Record{Topic: g.topic(e), Value: e.DataEncoded, Headers: headers("ce_specversion", "1.0", "ce_id", e.ID(),
		"ce_type", e.Type(), "ce_source", e.Source(), "unrelated", "\xff")}
	optional := map[string]string{"ce_subject": e.Subject(), "ce_dataschema": e.DataSchema(), "content-type": e.DataContentType()}
	if !e.Time().IsZero() {
		optional["ce_time"] = types.FormatTime(e.Time())
	}
	for name, value := range optional {
		if value != "" {
			r.Headers = append(r.Headers, headers(name, value)...)
		}
	}
	for name, value := range e.Extensions() {
		text, err := types.Format(value)
		if err != nil {
			t.Fatalf("format extension %s: %v", name, err)
		}
		r.Headers = append(r.Headers, headers("ce_"+name, text)...)
	}
	g.Shuffle(len(r.Headers), func(i, j int) { r.Headers[i], r.Headers[j] = r.Headers[j], r.Headers[i] })
	for i := range r.Headers {
		if !g.often() {
			r.Headers[i].Key = strings.ToUpper(r.Headers[i].Key)
		}
	}
	return r
}

// topic is one in which e may stand: its own application's, another one's that takes it as
// its own, or one outside the naming.
func (g generator) topic(e event.Event) string {
	own, _ := e.Extensions()["application"].(string)
	return pick(g, "other", "events-app", topic.Of(cmp.Or(own, "app")))
}

// text is valid UTF-8 of at least least characters.
func (g generator) text(least int) string {
	var b strings.Builder
	for range least + g.IntN(12) {
		b.WriteString(pick(g, "a", "Z", "0", " ", "\"", "\\", "/", "\n", "\t", "\x00", "\x1b", "\x7f", "<&>", "é", "日本", "😀", "\u2028", "\ufffd", "\ufeff", "{", "]", ","))
	}
	return b.String()
}

func (g generator) bytes() []byte {
	b := make([]byte, 1+g.IntN(40))
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	return b
}

// json is valid JSON with blanks, that nests at most depth deep.
func (g generator) json(depth int) string {
	kinds := 6
	if depth == 0 {
		kinds = 4
	}
	blank := pick(g, "", "", " ", "\n\t", "\r\n ")
	switch g.IntN(kinds) {
	case 0:
		return blank + pick(g, "true", "false", "null") + blank
	case 1:
		return blank + pick(g, "0", "-0", "1.50", "9007199254740993", "-123456789012345678901234567890", "1e10", "2E-7", "1e+2", "0.1000000000000000055511151231257827")
	case 2:
		quoted, _ := json.Marshal(g.text(0))
		return string(quoted) + blank
	case 3:
		return pick(g, `"\u0041\/\b"`, `"\ud83d\ude00"`, `"a b"`, `""`, `"\u0000"`)
	case 4:
		parts := make([]string, g.IntN(4))
		for i := range parts {
			parts[i] = g.json(depth - 1)
		}
		return blank + "[" + strings.Join(parts, ",") + blank + "]"
	}
	parts := make([]string, g.IntN(4))
	for i := range parts {
		quoted, _ := json.Marshal(g.text(0))
		parts[i] = blank + string(quoted) + blank + ":" + g.json(depth-1)
	}
	return "{" + strings.Join(parts, ",") + blank + "}" + blank
}
