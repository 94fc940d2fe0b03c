package convert

import (
	"errors"
	"strings"
	"testing"
)

// headers makes headers from pairs of key and value.
func headers(pairs ...string) []Header {
	var list []Header
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, Header{pairs[i], []byte(pairs[i+1])})
	}
	return list
}

// minimal is the shortest event in binary mode, with more headers behind it.
func minimal(more ...string) []Header {
	return append(headers("ce_specversion", "1.0", "ce_id", "1", "ce_type", "t", "ce_source", "s"), headers(more...)...)
}

func binary(contentType, value string) Record {
	r := Record{Topic: "events-app", Headers: minimal(), Value: []byte(value)}
	if contentType != "" {
		r.Headers = append(r.Headers, Header{"content-type", []byte(contentType)})
	}
	return r
}

func structured(value string) Record {
	return Record{
		Topic:   "events-app",
		Headers: headers("content-type", "application/cloudevents+json"),
		Value:   []byte(value),
	}
}

const (
	start       = `{"specversion":"1.0","id":"1","type":"t","source":"s"`
	startedWith = `{"specversion":"1.0","id":"1","source":"s","type":"t",`
)

func TestRecordsBecomeTheEventOfTheirRule(t *testing.T) {
	full := Record{
		Topic: "events-app",
		Value: []byte(` { "t" : 21.50 } `),
		Headers: headers("ce_zone", "z", "ce_time", "2021-05-04T08:21:05.123456789Z", "ce_subject", "temp", "ce_device", "d1",
			"ce_dataschema", "urn:s", "content-type", "application/json", "ce_source", "drogue://app/d1", "ce_type", "io.drogue.event.v1",
			"ce_id", "42", "ce_specversion", "1.0", "ce_application", "app", "unrelated", "\xff"),
	}
	for _, c := range []struct {
		name   string
		record Record
		want   string
	}{
		{"members have a fixed order, extensions that of arrival", full,
			`{"specversion":"1.0","id":"42","type":"io.drogue.event.v1","source":"drogue://app/d1","datacontenttype":"application/json","dataschema":"urn:s","subject":"temp","time":"2021-05-04T08:21:05.123456789Z","data":{"t":21.50},"zone":"z","device":"d1","application":"app"}`},
		{"header names are case-insensitive",
			Record{Topic: "events-app", Headers: headers("CE_SpecVersion", "1.0", "Ce_ID", "1", "ce_TYPE", "t", "cE_source", "s", "Content-Type", "Text/Plain", "ce_MyExt", "x"), Value: []byte("a")},
			start + `,"datacontenttype":"Text/Plain","data":"a","myext":"x"}`},
		{"a header without a value is absent",
			Record{Topic: "events-app", Headers: append(minimal(), Header{"ce_subject", nil}, Header{"ce_x", nil}, Header{"content-type", nil})}, start + `}`},
		{"a content type without a value is none beside another one",
			Record{Topic: "events-app", Headers: append(minimal("content-type", "text/plain"), Header{"Content-Type", nil}), Value: []byte("a")},
			start + `,"datacontenttype":"text/plain","data":"a"}`},
		{"an empty optional attribute is absent, an empty extension is not",
			Record{Topic: "events-app", Headers: minimal("ce_subject", "", "ce_time", "", "ce_x", "")}, start + `,"x":""}`},
		{"text is escaped as little as possible",
			Record{Topic: "events-app", Headers: minimal("ce_x", "\"\\/<&>\x00\x1f\n\u2028é😀\x7f")}, start + `,"x":"\"\\/<&>\u0000\u001f\n` + "\u2028é😀\x7f" + `"}`},
		{"an own cursor becomes origincursor",
			Record{Topic: "events-app", Headers: minimal("ce_a", "1", "ce_cursor", "c", "ce_b", "2")}, start + `,"a":"1","origincursor":"c","b":"2"}`},
		{"an own cursor replaces an origincursor before it",
			Record{Topic: "events-app", Headers: minimal("ce_origincursor", "o", "ce_cursor", "c")}, start + `,"origincursor":"c"}`},
		{"an own cursor replaces an origincursor behind it",
			Record{Topic: "events-app", Headers: minimal("ce_cursor", "c", "ce_origincursor", "o")}, start + `,"origincursor":"c"}`},
		{"an origincursor alone stays",
			Record{Topic: "events-app", Headers: minimal("ce_origincursor", "o")}, start + `,"origincursor":"o"}`},
		{"structured: members are put in order and compacted",
			structured("\n{ \"x\" : 1 , \"data\" : { \"a\" : [ 1 , 2 ] } ,\"time\":\"2021-05-04T08:21:05+02:00\", \"subject\":\"c\", \"source\":\"s\",\"type\":\"t\",\"id\":\"1\",\"specversion\":\"1.0\"}\n"),
			start + `,"subject":"c","time":"2021-05-04T08:21:05+02:00","data":{"a":[1,2]},"x":1}`},
		{"structured: the content type may have parameters and any case",
			Record{Topic: "events-app", Headers: headers("content-type", "Application/CloudEvents+JSON ; charset=utf-8"), Value: []byte(startedWith[:len(startedWith)-1] + `}`)}, start + `}`},
		{"structured: attributes in headers do not count",
			Record{Topic: "events-app", Headers: headers("content-type", "application/cloudevents+json", "ce_id", "2", "ce_x", "y"), Value: []byte(startedWith[:len(startedWith)-1] + `}`)}, start + `}`},
		{"structured: numbers and booleans keep their form, null is absent",
			structured(startedWith + `"a":-7,"b":true,"c":false,"d":null,"subject":null,"e":1.50}`), start + `,"a":-7,"b":true,"c":false,"e":1.50}`},
		{"structured: escaped names and values are the same names and values",
			structured(`{"specversion":"1\u002e0","\u0069d":"1","source":"\u0073","type":"t","x":"\u00e9\/\ud83d\ude00\n"}`), start + `,"x":"é/😀\n"}`},
		{"structured: data keeps digits, escapes and repeated names",
			structured(startedWith + `"data":{"a":1e400,"a":9007199254740993,"b":"\u0041\/"}}`), start + `,"data":{"a":1e400,"a":9007199254740993,"b":"\u0041\/"}}`},
		{"structured: null data stays",
			structured(startedWith + `"data":null}`), start + `,"data":null}`},
		{"structured: data_base64 stays, whatever the type",
			structured(startedWith + `"datacontenttype":"application/json","data_base64":"e30="}`), start + `,"datacontenttype":"application/json","data_base64":"e30="}`},
		{"structured: data_base64 may have escaped slashes",
			structured(startedWith + `"data_base64":"\/\/8="}`), start + `,"data_base64":"//8="}`},
		{"structured: a null beside the other data member is absent",
			structured(startedWith + `"data":null,"data_base64":"AA=="}`), start + `,"data_base64":"AA=="}`},
		{"structured: a null data_base64 is absent",
			structured(startedWith + `"data":1,"data_base64":null}`), start + `,"data":1}`},
		{"structured: text data of any type stays",
			structured(startedWith + `"datacontenttype":"text/csv","data":"a,b"}`), start + `,"datacontenttype":"text/csv","data":"a,b"}`},
		{"structured: an own cursor becomes origincursor",
			structured(startedWith + `"cursor":5,"origincursor":"o"}`), start + `,"origincursor":5}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := New("").Convert(c.record)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(e.JSON); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			checkEvent(t, e)
		})
	}
}

func TestPayloadsBecomeDataByTheirContentType(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, c := range []struct{ name, contentType, payload, want string }{
		{"json", "application/json", `{"a":1}`, `"data":{"a":1}`},
		{"json with a parameter", "application/json; charset=utf-8", "[ ]", `"data":[]`},
		{"json in capitals", "APPLICATION/JSON", "null", `"data":null`},
		{"json of a longer name", "application/json-patch", "[1]", `"data":[1]`},
		{"text json", "text/json", "true", `"data":true`},
		{"a type that ends in +json", "application/senml+json", `"x"`, `"data":"x"`},
		{"+json with a parameter", "application/senml+json;v=1", "7", `"data":7`},
		{"big integers keep their digits", "application/json", "123456789012345678901234567890", `"data":123456789012345678901234567890`},
		{"trailing zeros and exponents stay", "application/json", "[1.50,1e400,-0,1E+2]", `"data":[1.50,1e400,-0,1E+2]`},
		{"repeated names stay", "application/json", `{"a":1,"a":2}`, `"data":{"a":1,"a":2}`},
		{"escapes stay", "application/json", `"\u0041\/é"`, `"data":"\u0041\/é"`},
		{"blanks inside strings stay", "application/json", "{ \"a b\" :\t\" c \\\" \" }\r\n", `"data":{"a b":" c \" "}`},
		{"json that does not parse", "application/json", `{"a":}`, `"data_base64":"eyJhIjp9"`},
		{"json with something behind it", "application/json", "1 2", `"data_base64":"MSAy"`},
		{"json with a byte order mark", "application/json", "\ufeff1", `"data_base64":"77u/MQ=="`},
		{"json that is not UTF-8", "application/json", "\"\xff\"", `"data_base64":"Iv8i"`},
		{"json with half a surrogate pair", "application/json", `"\ud800"`, `"data_base64":"Ilx1ZDgwMCI="`},
		{"text json that does not parse", "text/json", "{", `"data_base64":"ew=="`},
		{"json as deep as allowed", "application/json", deep(maxDepth - 1), `"data":` + deep(maxDepth-1)},
		{"json that is many but not deep", "application/json", "[" + strings.Repeat(`{"[[":[]},`, 500) + "1]", `"data":[` + strings.Repeat(`{"[[":[]},`, 500) + "1]"},
		{"plain text", "text/plain", "a\nb", `"data":"a\nb"`},
		{"plain text with a parameter", "text/plain;charset=utf-8", "é", `"data":"é"`},
		{"any text type", "text/csv", "a,b", `"data":"a,b"`},
		{"text that is not UTF-8", "text/plain", "\xff", `"data_base64":"/w=="`},
		{"binary", "application/octet-stream", "\x00\x01", `"data_base64":"AAE="`},
		{"binary that looks like text", "application/octet-stream", "abc", `"data_base64":"YWJj"`},
		{"an unusable type", ";", "abc", `"data_base64":"YWJj"`},
		{"no type", "", `{"a":1}`, `"data_base64":"eyJhIjoxfQ=="`},
		{"no payload", "application/json", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := start
			if c.contentType != "" {
				want += `,"datacontenttype":"` + c.contentType + `"`
			}
			if c.want != "" {
				want += "," + c.want
			}
			want += "}"
			e, err := New("").Convert(binary(c.contentType, c.payload))
			if err != nil {
				t.Fatal(err)
			}
			if got := string(e.JSON); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			checkEvent(t, e)
		})
	}
}

func TestMalformedRecordsSayWhy(t *testing.T) {
	with := func(pairs ...string) Record { return Record{Topic: "events-app", Headers: minimal(pairs...)} }
	attributes := func(pairs ...string) Record { return Record{Topic: "events-app", Headers: headers(pairs...)} }
	many := make([]string, 0, 2*(maxExtensions+1))
	for i := range maxExtensions + 1 {
		many = append(many, "ce_x"+strings.Repeat("y", i), "")
	}
	for _, c := range []struct {
		name, reason string
		record       Record
	}{
		{"an empty record", ReasonNotCloudEvent, Record{Topic: "events-app"}},
		{"a record of something else", ReasonNotCloudEvent, attributes("content-type", "application/json")},
		{"an old version", ReasonSpecVersion, attributes("ce_specversion", "0.3", "ce_id", "1", "ce_type", "t", "ce_source", "s")},
		{"no id", ReasonMissing, attributes("ce_specversion", "1.0", "ce_type", "t", "ce_source", "s")},
		{"an empty id", ReasonMissing, attributes("ce_specversion", "1.0", "ce_id", "", "ce_type", "t", "ce_source", "s")},
		{"no type", ReasonMissing, attributes("ce_specversion", "1.0", "ce_id", "1", "ce_source", "s")},
		{"no source", ReasonMissing, attributes("ce_specversion", "1.0", "ce_id", "1", "ce_type", "t")},
		{"an attribute twice", ReasonTwice, with("ce_id", "1")},
		{"an attribute twice, once empty", ReasonTwice, with("ce_subject", "", "ce_subject", "x")},
		{"an extension twice", ReasonTwice, with("ce_x", "1", "ce_X", "2")},
		{"two content types", ReasonTwice, with("content-type", "text/plain", "Content-Type", "text/plain")},
		{"the content type as an attribute, too", ReasonTwice, with("content-type", "text/plain", "ce_datacontenttype", "text/plain")},
		{"an extension named data", ReasonName, with("ce_data", "x")},
		{"an extension named data_base64", ReasonName, with("ce_data_base64", "x")},
		{"a name that is none", ReasonName, with("ce_a-b", "x")},
		{"an empty name", ReasonName, with("ce_", "x")},
		{"an attribute that is not UTF-8", ReasonUTF8, with("ce_subject", "\xff")},
		{"an extension that is not UTF-8", ReasonUTF8, with("ce_x", "a\xc3")},
		{"a content type that is not UTF-8", ReasonUTF8, with("content-type", "\xff")},
		{"a time that is none", ReasonTime, with("ce_time", "yesterday")},
		{"a time without a zone", ReasonTime, with("ce_time", "2021-05-04T08:21:05")},
		{"an hour of one digit", ReasonTime, with("ce_time", "2021-05-04T8:21:05Z")},
		{"a zone beyond a day", ReasonTime, with("ce_time", "2021-05-04T08:21:05+24:00")},
		{"a zone with too many minutes", ReasonTime, with("ce_time", "2021-05-04T08:21:05+01:60")},
		{"a day that is none", ReasonTime, with("ce_time", "2021-02-29T08:21:05Z")},
		{"a time in lower case", ReasonTime, with("ce_time", "2021-05-04t08:21:05z")},
		{"a time with a comma", ReasonTime, with("ce_time", "2021-05-04T08:21:05,5Z")},
		{"too many extensions", ReasonTooMany, with(many...)},
		{"another event format", ReasonFormat, attributes("content-type", "application/cloudevents+avro")},
		{"a batch", ReasonFormat, attributes("content-type", "application/cloudevents-batch+json")},
		{"structured: nothing", ReasonJSON, structured("")},
		{"structured: no object", ReasonJSON, structured("[]")},
		{"structured: no JSON", ReasonJSON, structured("{")},
		{"structured: two objects", ReasonJSON, structured("{}{}")},
		{"structured: not UTF-8", ReasonJSON, structured("{\"\xff\":1}")},
		{"structured: an empty object", ReasonSpecVersion, structured("{}")},
		{"structured: an old version", ReasonSpecVersion, structured(`{"specversion":"0.3","id":"1","source":"s","type":"t"}`)},
		{"structured: no id", ReasonMissing, structured(`{"specversion":"1.0","source":"s","type":"t"}`)},
		{"structured: a number as id", ReasonValue, structured(`{"specversion":"1.0","id":1,"source":"s","type":"t"}`)},
		{"structured: an object as extension", ReasonValue, structured(startedWith + `"x":{}}`)},
		{"structured: an array as attribute", ReasonValue, structured(startedWith + `"subject":["x"]}`)},
		{"structured: a member twice", ReasonTwice, structured(startedWith + `"id":"2"}`)},
		{"structured: a member twice, once in disguise", ReasonTwice, structured(startedWith + `"\u0069d":"2"}`)},
		{"structured: data twice", ReasonTwice, structured(startedWith + `"data":1,"data":2}`)},
		{"structured: a name in capitals", ReasonName, structured(startedWith + `"X":"2"}`)},
		{"structured: an empty name", ReasonName, structured(startedWith + `"":"2"}`)},
		{"structured: both kinds of data", ReasonData, structured(startedWith + `"data":1,"data_base64":"AA=="}`)},
		{"structured: data_base64 that is a number", ReasonData, structured(startedWith + `"data_base64":1}`)},
		{"structured: data_base64 that is none", ReasonData, structured(startedWith + `"data_base64":"A==="}`)},
		{"structured: data_base64 without padding", ReasonData, structured(startedWith + `"data_base64":"AA"}`)},
		{"structured: data_base64 of URLs", ReasonData, structured(startedWith + `"data_base64":"_-8="}`)},
		{"structured: a bad time", ReasonTime, structured(startedWith + `"time":"2021-05-04"}`)},
		{"structured: too deep", ReasonDepth, structured(startedWith + `"data":` + strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth) + "}")},
		{"structured: a depth bomb", ReasonJSON, structured(startedWith + `"data":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "}")},
		{"no application", ReasonNoApplication, Record{Topic: "other", Headers: minimal()}},
		{"an empty application", ReasonNoApplication, Record{Topic: "other", Headers: minimal("ce_application", "")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := New("").Convert(c.record)
			var m *Malformed
			if !errors.As(err, &m) {
				t.Fatalf("got %s, %v; want a *Malformed", e.JSON, err)
			}
			if m.Reason != c.reason || !strings.HasPrefix(m.Error(), "convert record: ") {
				t.Errorf("got %s, %q; want %s", m.Reason, m, c.reason)
			}
		})
	}
}

func TestAPayloadThatIsADepthBombStaysBytes(t *testing.T) {
	for _, depth := range []int{maxDepth, 9_999, 10_001, 100_000} {
		e, err := New("").Convert(binary("application/json", strings.Repeat("[", depth)+strings.Repeat("]", depth)))
		if err != nil || !strings.HasPrefix(string(e.JSON), start+`,"datacontenttype":"application/json","data_base64":"`) {
			t.Errorf("depth %d: %.100s, %v", depth, e.JSON, err)
		}
		checkEvent(t, e)
	}
}

func TestChannelIsTheSubjectAndDeviceTheExtension(t *testing.T) {
	for _, c := range []struct {
		name   string
		record Record
		want   Event
	}{
		{"neither", Record{Headers: minimal()}, Event{}},
		{"both", Record{Headers: minimal("ce_device", "d", "ce_subject", "c")}, Event{Channel: "c", HasChannel: true, Device: "d", HasDevice: true}},
		{"channel", Record{Headers: minimal("ce_subject", "a/b é")}, Event{Channel: "a/b é", HasChannel: true}},
		{"device", Record{Headers: minimal("ce_device", "\r\n")}, Event{Device: "\r\n", HasDevice: true}},
		{"an empty subject is no channel", Record{Headers: minimal("ce_subject", "")}, Event{}},
		{"structured", structured(startedWith + `"subject":"\u0063","device":"d","application":"app"}`), Event{Channel: "c", HasChannel: true, Device: "d", HasDevice: true}},
		{"a number is a device", structured(startedWith + `"device":7}`), Event{Device: "7", HasDevice: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := New("app").Convert(c.record)
			if err != nil {
				t.Fatal(err)
			}
			if e.Channel != c.want.Channel || e.HasChannel != c.want.HasChannel || e.Device != c.want.Device || e.HasDevice != c.want.HasDevice || e.Application != "app" {
				t.Errorf("got %+v, want %+v", e, c.want)
			}
		})
	}
}

func TestAnEventSharesNoMemoryWithItsRecord(t *testing.T) {
	for _, r := range []Record{
		{Topic: "x", Headers: minimal("ce_application", "app", "ce_subject", "channel", "ce_device", "device", "content-type", "application/json"), Value: []byte(`{"a":1}`)},
		{Topic: "x", Headers: headers("content-type", "application/cloudevents+json"), Value: []byte(startedWith + `"application":"app","subject":"channel","device":"device","x":5,"data":{"a":1}}`)},
	} {
		e, err := New("").Convert(r)
		if err != nil {
			t.Fatal(err)
		}
		before := string(e.JSON)
		for _, h := range r.Headers {
			clear(h.Value)
		}
		clear(r.Value)
		if string(e.JSON) != before || e.Application != "app" || e.Channel != "channel" || e.Device != "device" {
			t.Errorf("the event changed with its record: %+v %s", e, e.JSON)
		}
	}
}
