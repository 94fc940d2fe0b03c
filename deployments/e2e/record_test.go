//go:build linux

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/twmb/franz-go/pkg/kgo"

	"canopy/shared/event"
	"canopy/shared/topic"
)

// allBytes holds every byte once; its base64 was made by another program.
var allBytes = func() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}()

const (
	allBytesBase64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZHSElK" +
		"S0xNTk9QUVJTVFVWV1hZWltcXV5fYGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e3x9fn+AgYKDhIWGh4iJiouMjY6PkJGSk5SVlpeYmZqbnJ2en6Ch" +
		"oqOkpaanqKmqq6ytrq+wsbKztLW2t7i5uru8vb6/wMHCw8TFxsfIycrLzM3Oz9DR0tPU1dbX2Nna29zd3t/g4eLj5OXm5+jp6uvs7e7v8PHy8/T19vf4+fr7/P3+/w=="

	// requiredJSON is how every event begins; ID is to be replaced.
	requiredJSON = `{"specversion":"1.0","id":"ID","type":"io.drogue.event.v1","source":"drogue://a%20b/d"`
)

// large fits into what a Kafka producer takes by default.
var large = strings.Repeat("0123456789abcdef", 60_000)

// delivery is a record and the message that it must become, up to the cursor.
type delivery struct {
	name    string
	headers []kgo.RecordHeader // beside the required ones, for binary mode
	value   string
	want    string // behind requiredJSON; the whole event without its brace, in structured mode
}

var binaryMode = []delivery{
	{"every attribute and the cloud's extensions", headers(
		"content-type", "application/json", "ce_dataschema", "https://example.com/schema?a=b&c=<d>", "ce_subject", "temp/érature ",
		"ce_time", "2026-02-03T04:05:06.789012345Z", "ce_application", "APP", "ce_applicationuid", "app-uid", "ce_device", "dev ice",
		"ce_deviceuid", "dev-uid", "ce_sender", "gate way", "ce_senderuid", "gate-uid", "ce_instance", "local", "ce_partitionkey", "a%20b/d",
	), `{"temp":21.5}`, `,"datacontenttype":"application/json","dataschema":"https://example.com/schema?a=b&c=<d>","subject":"temp/érature ",` +
		`"time":"2026-02-03T04:05:06.789012345Z","data":{"temp":21.5},"application":"APP","applicationuid":"app-uid","device":"dev ice",` +
		`"deviceuid":"dev-uid","sender":"gate way","senderuid":"gate-uid","instance":"local","partitionkey":"a%20b/d"`},
	{"numbers keep all digits", headers("content-type", "application/json; charset=utf-8"),
		`[9007199254740993, -12345678901234567890123456789, 1.10, 1E400, -0, 0.1000000000000000055511151231257827]`,
		`,"datacontenttype":"application/json; charset=utf-8","data":[9007199254740993,-12345678901234567890123456789,1.10,1E400,-0,0.1000000000000000055511151231257827]`},
	{"JSON keeps escapes, order and repeated names", headers("content-type", "application/vnd.x+json"),
		"{ \"z\" : \"\\u00e9\\/\\n\", \"a\":null,\t\"a\":[ ] }", `,"datacontenttype":"application/vnd.x+json","data":{"z":"\u00e9\/\n","a":null,"a":[]}`},
	{"JSON that is not an object", headers("content-type", "application/json"), ` "text" `, `,"datacontenttype":"application/json","data":"text"`},
	{"JSON that does not parse", headers("content-type", "application/json"), `{"temp":`, `,"datacontenttype":"application/json","data_base64":"eyJ0ZW1wIjo="`},
	{"every byte", headers("content-type", "application/octet-stream"), string(allBytes),
		`,"datacontenttype":"application/octet-stream","data_base64":"` + allBytesBase64 + `"`},
	{"no content type", nil, `{"temp":21.5}`, `,"data_base64":"eyJ0ZW1wIjoyMS41fQ=="`},
	{"Unicode text", headers("content-type", "text/plain"), "žluťoučký 🐎\t\"\\\x00\u2028\r\n",
		`,"datacontenttype":"text/plain","data":"žluťoučký 🐎\t\"\\\u0000` + "\u2028" + `\r\n"`},
	{"text that is not UTF-8", headers("content-type", "text/plain"), "\xff\xfe", `,"datacontenttype":"text/plain","data_base64":"//4="`},
	{"no data", headers("content-type", "application/json"), "", `,"datacontenttype":"application/json"`},
	{"empty extension and Unicode in one", headers("ce_empty", "", "ce_word", "温度 \"🌡\""), "", `,"empty":"","word":"温度 \"🌡\""`},
	{"names in any case", headers("CE_Subject", "s", "Content-Type", "application/json"), "1", `,"datacontenttype":"application/json","subject":"s","data":1`},
	{"a cursor of its own", headers("ce_cursor", "mine"), "", `,"origincursor":"mine"`},
	{"an event of nearly a megabyte", headers("content-type", "text/plain"), large,
		`,"datacontenttype":"text/plain","data":"` + large + `"`},
}

var structuredMode = []delivery{
	{"data, and extensions of every type", nil,
		`{"data": {"n": 18446744073709551616, "t": "\u017e"}, "count": 7, "flag": true, "nothing": null, "id": "ID", "source": "drogue://a%20b/d",
		  "specversion": "1.0", "time": "2026-02-03T04:05:06+05:30", "type": "io.drogue.event.v1", "datacontenttype": "application/json", "application": "APP"}`,
		requiredJSON + `,"datacontenttype":"application/json","time":"2026-02-03T04:05:06+05:30","data":{"n":18446744073709551616,"t":"\u017e"},` +
			`"count":7,"flag":true,"application":"APP"`},
	{"binary data", nil,
		`{"specversion":"1.0","id":"ID","type":"io.drogue.event.v1","source":"drogue://a%20b/d","subject":"s","data_base64":"` + allBytesBase64 + `"}`,
		requiredJSON + `,"subject":"s","data_base64":"` + allBytesBase64 + `"`},
	{"text in the data, and none in another", nil,
		`{"specversion":"1.0","id":"ID","type":"io.drogue.event.v1","source":"drogue://a%20b/d","data":"žluť\u006fučký 🐎","datacontenttype":"text/plain"}`,
		requiredJSON + `,"datacontenttype":"text/plain","data":"žluť\u006fučký 🐎"`},
	{"no data", nil,
		`{"specversion":"1.0","id":"ID","type":"io.drogue.event.v1","source":"drogue://a%20b/d","cursor":"mine"}`,
		requiredJSON + `,"origincursor":"mine"`},
}

func TestEveryAttributeExtensionAndByteArrivesByKeyAndByToken(t *testing.T) {
	w := start(t, setup{private: map[string]int32{"private": 1}})
	sockets := map[string]*websocket.Conn{
		"API key": w.open(w.path("private", ""), w.withKey()),
		"token":   w.open(w.path("private", ""), w.withToken("alice", time.Hour)),
	}
	last := map[string]event.Cursor{}
	check := func(d delivery, id, want string) {
		want = strings.NewReplacer(`"id":"ID"`, `"id":"`+id+`"`, `"APP"`, `"`+w.app("private")+`"`).Replace(want)
		for how, socket := range sockets {
			got, cursor := cutCursor(t, read(t, socket))
			if got != want {
				t.Errorf("%s, signed in by %s: got\n%.2000s\nwant\n%.2000s", d.name, how, got, want)
			}
			if before := last[how]; cursor.Sequence <= before.Sequence || before.Log != 0 && cursor.Log != before.Log {
				t.Errorf("%s: cursor %v follows %v", d.name, cursor, before)
			}
			last[how] = cursor
		}
	}
	to := topic.Of(w.app("private"))
	for _, d := range binaryMode {
		id := "b/" + d.name
		list := headers("ce_specversion", "1.0", "ce_id", id, "ce_type", "io.drogue.event.v1", "ce_source", "drogue://a%20b/d")
		for _, h := range d.headers {
			if string(h.Value) == "APP" {
				h.Value = []byte(w.app("private"))
			}
			list = append(list, h)
		}
		w.produce(&kgo.Record{Topic: to, Key: []byte(id), Headers: list, Value: []byte(d.value)})
		check(d, id, requiredJSON+d.want)
	}
	for _, d := range structuredMode {
		id := "s/" + d.name
		value := strings.NewReplacer(`"ID"`, `"`+id+`"`, `"APP"`, `"`+w.app("private")+`"`).Replace(d.value)
		w.produce(&kgo.Record{Topic: to, Headers: headers("content-type", "application/cloudevents+json; charset=UTF-8"), Value: []byte(value)})
		check(d, id, d.want)
	}
}

// cutCursor takes the edge's last member off an event.
func cutCursor(t *testing.T, text string) (rest string, c event.Cursor) {
	t.Helper()
	rest, end, found := strings.Cut(text, `,"cursor":"`)
	cursor, err := event.ParseCursor(strings.TrimSuffix(end, `"}`))
	if !found || err != nil {
		t.Fatalf("no cursor ends %.300s: %v", text, err)
	}
	return rest, cursor
}

func TestRecordsThatAreNoEventsAreSkippedAndTheirNeighboursArrive(t *testing.T) {
	w := start(t, setup{public: map[string]int32{"mixed": 1}})
	socket := w.open(w.path("mixed", ""), nil)
	to := topic.Of(w.app("mixed"))
	bad := []*kgo.Record{
		{Topic: to, Value: []byte("no headers at all")},
		{Topic: to},
		{Topic: to, Headers: headers("content-type", "application/cloudevents+json"), Value: []byte(`{"specversion":"1.0",`)},
		{Topic: to, Headers: headers("content-type", "application/cloudevents+json"), Value: []byte(strings.Repeat("[", 100_000))},
		{Topic: to, Headers: headers("ce_specversion", "1.0", "ce_id", "\xff", "ce_type", "t", "ce_source", "s")},
	}
	for n, r := range bad {
		w.produce(w.numbered("mixed", "", uint64(n+1), 0), r)
	}
	w.produce(w.numbered("mixed", "", uint64(len(bad)+1), 0))
	for n := range len(bad) + 1 {
		if got := decode(t, read(t, socket)); got["data"].(map[string]any)["n"] != float64(n+1) {
			t.Fatalf("got %v, want event %d", got, n+1)
		}
	}
	eventually(t, "what was read and not published is what was bad", func() bool {
		taken := w.metric(w.ingest.IngestHealth, "canopy_ingest_records_read_total")
		return taken-w.metric(w.ingest.IngestHealth, "canopy_ingest_records_published_total") == float64(len(bad))
	})
}
