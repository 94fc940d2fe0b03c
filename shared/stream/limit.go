package stream

import (
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Keys in a stream's metadata, which ingest writes when it raises the number of events that
// the stream keeps of each application. From what the stream holds then nobody could see
// any more what the smaller number has cost.
const (
	metadataLimitWas   = "canopy.limit_was"   // the smaller number
	metadataLimitUntil = "canopy.limit_until" // "<sequence> <time>" of the stream's last event then
)

// FormerLimit says how few events a stream once kept of each application. The zero value
// says that it always kept as many as now.
type FormerLimit struct {
	Events   int64     // of each application; 0: not fewer than now
	Sequence uint64    // behind this place none was lost to it
	Time     time.Time // nor of those that were stored after this time
}

// FormerLimitOf reads the metadata of a stream. What it cannot read may go for every place.
func FormerLimitOf(metadata map[string]string) (f FormerLimit) {
	text, ok := metadata[metadataLimitWas]
	if !ok {
		return FormerLimit{}
	}
	var err error
	if f.Events, err = strconv.ParseInt(text, 10, 64); err != nil || f.Events < 1 {
		f.Events = 1
	}
	sequence, at, _ := strings.Cut(metadata[metadataLimitUntil], " ")
	f.Sequence, err = strconv.ParseUint(sequence, 10, 64)
	if err == nil {
		f.Time, err = time.Parse(time.RFC3339Nano, at)
	}
	if err != nil {
		f.Sequence, f.Time = math.MaxUint64, time.Unix(math.MaxInt32, 0)
	}
	return f
}

// RaiseLimit notes in want, which replaces has, that the stream kept fewer events of each
// application than it will, if so. When the stream has taken want, CloseLimit has to follow.
func RaiseLimit(has jetstream.StreamConfig, want *jetstream.StreamConfig) {
	old, limit := has.MaxMsgsPerSubject, want.MaxMsgsPerSubject
	if old < 1 || limit > 0 && limit <= old {
		return
	}
	if f := FormerLimitOf(has.Metadata); f.Events > 0 {
		old = min(old, f.Events)
	}
	want.Metadata = maps.Clone(want.Metadata)
	want.Metadata[metadataLimitWas] = strconv.FormatInt(old, 10)
	delete(want.Metadata, metadataLimitUntil)
}

// LimitIsOpen says whether a raised limit has not been closed by CloseLimit.
func LimitIsOpen(c jetstream.StreamConfig) bool {
	_, was := c.Metadata[metadataLimitWas]
	_, until := c.Metadata[metadataLimitUntil]
	return was && !until
}

// CloseLimit gives the configuration of a stream, whose limit was raised before info was
// asked for, with the note up to where the old limit may have cost events.
func CloseLimit(info *jetstream.StreamInfo) jetstream.StreamConfig {
	c := info.Config
	c.Metadata = maps.Clone(c.Metadata)
	c.Metadata[metadataLimitUntil] = fmt.Sprintf("%d %s", info.State.LastSeq, info.State.LastTime.UTC().Format(time.RFC3339Nano))
	return c
}
