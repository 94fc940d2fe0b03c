// Package load makes numbered events and publishes them: to JetStream as ingest would,
// or to Kafka as devices' gateways do.
package load

import (
	"fmt"
	"strconv"
)

const (
	eventID   = `{"specversion":"1.0","id":"`
	eventHead = `","type":"io.drogue.event.v1","source":"drogue://bench/device","datacontenttype":"application/json","subject":"` +
		channel + `","time":"2026-01-01T00:00:00Z","data":`
	eventTail = `,"application":"` + Application + `","device":"` + device + `"}`

	// Application is the one that every event belongs to.
	Application = "bench"

	channel = "temperature"
	device  = "device"
	padding = "Canopy pushes events from Kafka to very many WebSockets. "
)

// MinSize is the length in bytes of the shortest event for every number and time.
var MinSize = len(appendEvent(nil, 1<<63, 1<<62, 0))

// AppendEvent appends event n, made at the time at (nanoseconds since 1970), to b: a
// CloudEvent in compact JSON of exactly size bytes. An event cannot be shorter than
// MinSize.
func AppendEvent(b []byte, n uint64, at int64, size int) []byte {
	short := len(appendEvent(nil, n, at, 0))
	return appendEvent(b, n, at, size-short)
}

func appendEvent(b []byte, n uint64, at int64, pad int) []byte {
	b = append(b, eventID...)
	b = strconv.AppendUint(b, n, 10)
	b = append(b, eventHead...)
	b = appendData(b, n, at, pad)
	return append(b, eventTail...)
}

// appendData appends the event's data, which the drain client reads.
func appendData(b []byte, n uint64, at int64, pad int) []byte {
	b = append(b, `{"n":`...)
	b = strconv.AppendUint(b, n, 10)
	b = append(b, `,"at":`...)
	b = strconv.AppendInt(b, at, 10)
	b = append(b, `,"text":"`...)
	for pad > 0 {
		part := padding[:min(pad, len(padding))]
		b = append(b, part...)
		pad -= len(part)
	}
	return append(b, `"}`...)
}

// CheckSize is an error if events of size bytes cannot be made.
func CheckSize(size int) error {
	if size < MinSize {
		return fmt.Errorf("make events of %d bytes: the shortest has %d", size, MinSize)
	}
	return nil
}
