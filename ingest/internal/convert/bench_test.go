package convert

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"canopy/shared/topic"
)

// Drogue's own set of attributes and extensions.
var drogueHeaders = minimal("ce_time", "2021-05-04T08:21:05.123456789Z", "ce_subject", "temperature", "ce_application", "example-app",
	"ce_applicationuid", "5c2f5a5e-8ba5-4d2d-a7a4-0f2f0a5a1b1c", "ce_device", "device-0001", "ce_deviceuid", "8f2f5a5e-8ba5-4d2d-a7a4-0f2f0a5a1b1c",
	"ce_sender", "device-0001", "ce_senderuid", "8f2f5a5e-8ba5-4d2d-a7a4-0f2f0a5a1b1c", "ce_instance", "drogue", "ce_partitionkey", "example-app/device-0001")

// jsonOf is a JSON object of size bytes with many small values.
func jsonOf(size int) []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i := 0; b.Len() < size-32; i++ {
		fmt.Fprintf(&b, `"v%d":%d.5,`, i, i*37)
	}
	fmt.Fprintf(&b, `"text":"%s"}`, strings.Repeat("x", size-b.Len()-len(`"text":""}`)))
	return b.Bytes()
}

func BenchmarkConvert(b *testing.B) {
	for _, contentType := range []string{"application/json", "text/plain", "application/octet-stream"} {
		for _, size := range []int{64, 512, 16 << 10} {
			r := Record{Topic: "events-example-app", Value: jsonOf(size), Headers: append(headers("content-type", contentType), drogueHeaders...)}
			run(b, fmt.Sprintf("mode=binary/type=%s/size=%d", strings.ReplaceAll(contentType, "/", "-"), size), r)
		}
	}
	for kind, r := range inTopics() {
		run(b, "mode=binary/type=application-octet-stream/size=64/topic="+kind, r)
	}
	for _, size := range []int{64, 512, 16 << 10} {
		binary, err := New("").Convert(Record{Topic: "events-example-app", Value: jsonOf(size), Headers: append(headers("content-type", "application/json"), drogueHeaders...)})
		if err != nil {
			b.Fatal(err)
		}
		run(b, fmt.Sprintf("mode=structured/type=application-json/size=%d", size), structured(string(binary.JSON)))
	}
}

// inTopics are small events in topics of each kind; that of "misnamed" names another
// application than its topic, those of "outside" are in a topic that is nobody's.
func inTopics() map[string]Record {
	list := make(map[string]Record)
	for kind, c := range map[string]struct{ topic, application string }{
		"plain": {"events-example-app", "example-app"}, "misnamed": {"events-another-app", "example-app"},
		"hashed": {topic.Of("Example.App"), "Example.App"}, "outside": {"other", "example-app"},
	} {
		r := Record{Topic: c.topic, Value: jsonOf(64), Headers: append(headers("content-type", "application/octet-stream"), drogueHeaders...)}
		for i := range r.Headers {
			if r.Headers[i].Key == "ce_application" {
				r.Headers[i].Value = []byte(c.application)
			}
		}
		list[kind] = r
	}
	return list
}

func run(b *testing.B, name string, r Record) {
	b.Run(name, func(b *testing.B) {
		c := New("")
		b.SetBytes(int64(len(r.Value)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Convert(r); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestABinaryEventAllocatesNothingPerAttribute(t *testing.T) {
	records := inTopics()
	for contentType, value := range map[string][]byte{
		"application/json":         jsonOf(512),
		"text/plain":               bytes.Repeat([]byte("some text, "), 48),
		"application/octet-stream": jsonOf(512),
	} {
		records[contentType] = Record{Topic: "events-example-app", Value: value, Headers: append(headers("content-type", contentType), drogueHeaders...)}
	}
	for name, r := range records {
		c := New("")
		// One is the JSON, one holds channel and device. The rest is for the race
		// detector, which makes the JSON library's pool forget some of its buffers.
		got := testing.AllocsPerRun(200, func() {
			if _, err := c.Convert(r); err != nil {
				t.Fatal(err)
			}
		})
		if got > 4 {
			t.Errorf("%s: %.0f allocations", name, got)
		}
	}
	if v := jsonOf(512); len(v) != 512 || !json.Valid(v) {
		t.Errorf("jsonOf(512) is %d bytes: %s", len(v), v)
	}
}
