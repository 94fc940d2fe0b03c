package ws

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/flate"
)

// event is a typical one: 545 bytes, and 50 of the cursor.
const event = `{"specversion":"1.0","id":"0f8fad5b-d9cb-469f-a165-70867728950e","type":"io.drogue.event.v1",` +
	`"source":"drogue://example-app/sensor-0042","datacontenttype":"application/json","subject":"temperature",` +
	`"time":"2026-11-25T21:06:20.123Z","data":{"temp":21.375,"hum":48.2,"battery":3.61,` +
	`"geoloc":{"lat":48.137154,"lon":11.576124}},"application":"example-app",` +
	`"applicationuid":"b5a0c1f2-3e7d-4c86-9f0b-2a1d5e6c7b88","device":"sensor-0042",` +
	`"deviceuid":"7c9e6679-7425-40de-944b-e07fc1f90ae7","sender":"sensor-0042",` +
	`"partitionkey":"example-app/sensor-0042","cursor":"186f2b3c4d5e6f70-00000000000001234567"}`

// payloadOf takes a server's frame apart, which must be the only one.
func payloadOf(t testing.TB, frame []byte) (packed bool, payload []byte) {
	t.Helper()
	n := len(frame)
	for _, size := range []int{2, 4, 10} {
		if n >= size && HeaderLen(n-size) == size && bytes.Equal(AppendHeader(nil, Opcode(frame[0]&0x0F), n-size)[1:], frame[1:size]) {
			if frame[0]&0xB0 != 0x80 {
				t.Fatalf("first byte %x", frame[0])
			}
			return frame[0]&compressed != 0, frame[size:]
		}
	}
	t.Fatalf("frame %x has no length that fits", frame[:min(n, 10)])
	return false, nil
}

// inflated is the message of a server's frame, by a reader of its own.
func inflated(t testing.TB, frame []byte) (packed bool, message []byte) {
	t.Helper()
	packed, payload := payloadOf(t, frame)
	if !packed {
		return false, payload
	}
	message, err := io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(payload), strings.NewReader(messageEnd))))
	if err != nil {
		t.Fatalf("%x: %v", payload, err)
	}
	return true, message
}

func TestCompressedFramesHoldTheirMessageAndShowItsLastBytes(t *testing.T) {
	d := NewDeflater(1)
	random := make([]byte, 70_000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	for _, c := range []struct {
		payload []byte
		packed  bool
	}{
		{[]byte(event), true},
		{[]byte(strings.Repeat(event, 300)), true},
		{[]byte(strings.Repeat("x", 1<<20)), true},
		{[]byte("x"), false},
		{random, false},
	} {
		for _, plain := range []int{0, 1, 9, maxPlain, maxPlain + 1} {
			frame := d.AppendFrame([]byte("before"), OpText, c.payload, plain)[len("before"):]
			packed, message := inflated(t, frame)
			if !bytes.Equal(message, c.payload) {
				t.Fatalf("%d bytes, %d plain: another message", len(c.payload), plain)
			}
			if want := c.packed && plain <= maxPlain; packed != want {
				t.Errorf("%d bytes, %d plain: compressed %v", len(c.payload), plain, packed)
			}
			if packed && plain > 0 && !bytes.HasSuffix(frame, append(c.payload[len(c.payload)-plain:len(c.payload):len(c.payload)], 0)) {
				t.Errorf("%d bytes: the last %d do not stand at the end", len(c.payload), plain)
			}
		}
	}
}

func TestSmallPayloadsStayAsTheyAreAndOffIsOff(t *testing.T) {
	plain := AppendFrame(nil, OpText, []byte(event))
	for _, d := range []*Deflater{NewDeflater(0), NewDeflater(len(event) + 1)} {
		if got := d.AppendFrame(nil, OpText, []byte(event), 0); !bytes.Equal(got, plain) {
			t.Errorf("%+v: %q", d, got)
		}
		if n, _, _ := d.Counts(); n != 0 {
			t.Errorf("%d frames were compressed", n)
		}
	}
	d := NewDeflater(len(event))
	got := d.AppendFrame(nil, OpText, []byte(event), 0)
	frames, before, after := d.Counts()
	if _, payload := payloadOf(t, got); frames != 1 || before != uint64(len(event)) || after != uint64(len(payload)) {
		t.Errorf("counted %d frames, %d bytes before and %d after", frames, before, after)
	}
}

func TestCompressionInManyGoroutinesMixesNothingUp(t *testing.T) {
	d := NewDeflater(1)
	done := make(chan error)
	for g := range 8 {
		go func() {
			for i := range 200 {
				want := fmt.Sprintf("%s %d %d", strings.Repeat(event, 1+i%3), g, i)
				_, payload := payloadOf(t, d.AppendFrame(nil, OpText, []byte(want), 3))
				got, err := io.ReadAll(flate.NewReader(strings.NewReader(string(payload) + messageEnd)))
				if err != nil || string(got) != want {
					done <- fmt.Errorf("goroutine %d, message %d: %w", g, i, err)
					return
				}
			}
			done <- nil
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// BenchmarkDeflate is what compressing one event costs, whoever listens; wire-B is the
// frame, of which plain-B is the frame as it is without.
func BenchmarkDeflate(b *testing.B) {
	payload := []byte(event)
	for _, plain := range []int{0, 9} {
		b.Run(fmt.Sprintf("plain=%d", plain), func(b *testing.B) {
			d := NewDeflater(1)
			var frame []byte
			b.ReportAllocs()
			for b.Loop() {
				frame = d.AppendFrame(frame[:0], OpText, payload, plain)
			}
			b.ReportMetric(float64(len(frame)), "wire-B")
			b.ReportMetric(float64(HeaderLen(len(event))+len(event)), "plain-B")
		})
	}
	for level := 1; level <= 9; level++ {
		b.Run(fmt.Sprintf("level=%d", level), func(b *testing.B) {
			var out bytes.Buffer
			w, err := flate.NewWriter(&out, level)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				out.Reset()
				w.Reset(&out)
				_, _ = w.Write(payload)
				_ = w.Flush()
			}
			b.ReportMetric(float64(out.Len()-syncFlush), "payload-B")
		})
	}
}
