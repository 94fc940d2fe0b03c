package convert

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"

	"canopy/shared/topic"
)

func FuzzBinaryRecord(f *testing.F) {
	f.Add("events-app", "application/json", []byte(`{"a":1e400}`), "1", "drogue://app/d", "t", "c", "2021-05-04T08:21:05Z", "device", "d", "cursor", "x")
	f.Add("other", "text/plain", []byte("a\"\x00\u2028"), "\x00", "s", "t", "", "", "origincursor", "", "cursor", "x")
	f.Add("events-app", "a/b+json; x=y", []byte("[1.50, 2]"), "1", "%", "t", "", "", "data", "x", "X", "x")
	f.Add("events-app", "", []byte(strings.Repeat("[", 20_000)), "1", "s", "t", "é", "", "a_b", "", "application", "x")
	f.Add(hashedFOO, "application/cloudevents+json;x", []byte(startedWith+`"a":1}`), "1", "s", "t", "", "", "id", "", "id", "\xff")
	f.Add(hashedFOO, "application/cloudevents+json", []byte(startedWith+`"application":"FOO"}`), "1", "s", "t", "", "", "application", "b", "x", "")
	f.Add("other", "application/cloudevents+json", []byte(startedWith+`"application":"FOO"}`), "1", "s", "t", "", "", "application", "b", "x", "")
	f.Fuzz(func(t *testing.T, topicName, contentType string, value []byte, id, source, kind, subject, at, name1, value1, name2, value2 string) {
		r := Record{Topic: topicName, Value: value, Headers: headers("content-type", contentType, "ce_specversion", "1.0", "ce_id", id,
			"ce_source", source, "ce_type", kind, "ce_subject", subject, "ce_time", at, "ce_"+name1, value1, "ce_"+name2, value2)}
		e, err := New("default").Convert(r)
		if err != nil {
			checkMalformed(t, err)
			return
		}
		checkEvent(t, e)
		checkOwner(t, r, "default", e)
		if hasPrefixFold(mediaType([]byte(contentType)), cloudEventsType) {
			return
		}
		list := membersOf(t, e.JSON)
		if got, err := readBySDK(e.JSON, list); err == nil {
			checkData(t, got, value)
		}
		for _, m := range list {
			if text, _ := textOf(m.value); m.name == "id" && text != id || m.name == "source" && text != source || m.name == "subject" && text != subject {
				t.Fatalf("%s is %q in %s", m.name, text, e.JSON)
			}
		}
	})
}

// checkData compares the data that the SDK read with the payload of the record.
func checkData(t *testing.T, got event.Event, payload []byte) {
	t.Helper()
	if !got.DataBase64 && kindOf([]byte(got.DataContentType())) == jsonContent && len(payload) > 0 {
		if err := sameJSON(got.DataEncoded, payload); err != nil {
			t.Fatal(err)
		}
	} else if string(got.DataEncoded) != string(payload) {
		t.Fatalf("data %q became %q", payload, got.DataEncoded)
	}
}

func checkMalformed(t *testing.T, err error) {
	t.Helper()
	var m *Malformed
	if !errors.As(err, &m) || m.Reason == "" {
		t.Fatalf("%v is not a *Malformed with a reason", err)
	}
}

func FuzzStructuredRecord(f *testing.F) {
	for _, s := range []string{
		"", "{}", "[]", startedWith + `"a":1}`, startedWith + `"data":{"a":[1,2,{"b":"]}\""}]},"x":null}`,
		startedWith + `"data_base64":"AA==","cursor":"1","origincursor":true,"application":"a","device":7}`,
		startedWith + `"data":"\ud83d\ude00","time":"2021-05-04T08:21:05Z","datacontenttype":"text/plain"}`,
		startedWith + `"\u0069d":"2"}`, startedWith + `"data":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`,
		startedWith + `"\u0061pplication":"\u0046OO"}`, startedWith + `"application":"b"}`,
	} {
		for _, topicName := range []string{"events-app", hashedFOO, "other"} {
			f.Add(topicName, "FOO", []byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, topicName, header string, value []byte) {
		record := func(value []byte) Record {
			r := structured(string(value))
			r.Topic = topicName
			r.Headers = append(r.Headers, headers("ce_application", header)...)
			return r
		}
		e, err := New("default").Convert(record(value))
		if err != nil {
			checkMalformed(t, err)
			return
		}
		checkEvent(t, e)
		checkOwner(t, record(value), "default", e)
		if _, named := topic.Application(topicName); !named && !topic.Hashed(topicName) && header != "" && header != e.Application {
			t.Fatalf("header %q, but an event of %q", header, e.Application)
		}
		again, err := New("default").Convert(record(e.JSON))
		if err != nil || string(again.JSON) != string(e.JSON) {
			t.Fatalf("%s becomes %s, %v", e.JSON, again.JSON, err)
		}
	})
}

func FuzzBase64IsWhatTheLibraryDecodes(f *testing.F) {
	for _, s := range []string{"", "AA==", "AAA=", "A===", "====", "=AAA", "AA=A", "AAAA", "A"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, err := base64.StdEncoding.DecodeString(text)
		// The library skips line breaks.
		if want := err == nil && !strings.ContainsAny(text, "\r\n"); isBase64([]byte(text)) != want {
			t.Fatalf("isBase64(%q) = %v, want %v", text, !want, want)
		}
	})
}
