package convert

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
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
	for _, size := range []int{64, 512, 16 << 10} {
		binary, err := New("").Convert(Record{Topic: "events-example-app", Value: jsonOf(size), Headers: append(headers("content-type", "application/json"), drogueHeaders...)})
		if err != nil {
			b.Fatal(err)
		}
		run(b, fmt.Sprintf("mode=structured/type=application-json/size=%d", size), structured(string(binary.JSON)))
	}
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
	for contentType, value := range map[string][]byte{
		"application/json":         jsonOf(512),
		"text/plain":               bytes.Repeat([]byte("some text, "), 48),
		"application/octet-stream": jsonOf(512),
	} {
		c := New("")
		r := Record{Topic: "events-example-app", Value: value, Headers: append(headers("content-type", contentType), drogueHeaders...)}
		// One is the JSON, one holds channel and device. The rest is for the race
		// detector, which makes the JSON library's pool forget some of its buffers.
		got := testing.AllocsPerRun(200, func() {
			if _, err := c.Convert(r); err != nil {
				t.Fatal(err)
			}
		})
		if got > 4 {
			t.Errorf("%s: %.0f allocations", contentType, got)
		}
	}
	if v := jsonOf(512); len(v) != 512 || !json.Valid(v) {
		t.Errorf("jsonOf(512) is %d bytes: %s", len(v), v)
	}
}
