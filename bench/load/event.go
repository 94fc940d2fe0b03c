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
	eventTail = `,"application":"`
	eventEnd  = `","device":"` + device + `"}`

	// Application is the one that events belong to where one is enough.
	Application = "bench"

	channel = "temperature"
	device  = "device"
	padding = "Canopy pushes events from Kafka to very many WebSockets. "
)

// MinSize is the length in bytes of the shortest event of Application for every number
// and time.
var MinSize = len(appendEvent(nil, Application, 1<<63, 1<<62, 0))

// AppendEvent appends event n of Application, made at the time at (nanoseconds since 1970), to b: a
// CloudEvent in compact JSON of exactly size bytes. An event cannot be shorter than
// MinSize.
func AppendEvent(b []byte, n uint64, at int64, size int) []byte {
	return appendEventOf(b, Application, n, at, size)
}

func appendEventOf(b []byte, application string, n uint64, at int64, size int) []byte {
	short := len(appendEvent(nil, application, n, at, 0))
	return appendEvent(b, application, n, at, size-short)
}

func appendEvent(b []byte, application string, n uint64, at int64, pad int) []byte {
	b = append(b, eventID...)
	b = strconv.AppendUint(b, n, 10)
	b = append(b, eventHead...)
	b = appendData(b, n, at, pad)
	b = append(b, eventTail...)
	b = append(b, application...)
	return append(b, eventEnd...)
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
func CheckSize(size int) error { return checkSize(Application, size) }

func checkSize(application string, size int) error {
	if least := MinSize - len(Application) + len(application); size < least {
		return fmt.Errorf("make events of %d bytes: the shortest of %s has %d", size, application, least)
	}
	return nil
}
