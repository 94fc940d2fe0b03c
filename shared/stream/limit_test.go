package stream

import (
	"math"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func TestARaisedLimitIsRememberedUntilItsPlace(t *testing.T) {
	at := time.Date(2026, 3, 4, 5, 6, 7, 8, time.UTC)
	c := jetstream.StreamConfig{MaxMsgsPerSubject: 100, Metadata: map[string]string{"other": "kept"}}
	raise := func(limit int64) {
		want := c
		want.MaxMsgsPerSubject = limit
		RaiseLimit(c, &want)
		c = want
	}
	raise(100)
	raise(50) // a lower one needs no note: what is left shows what it has cost
	if f := FormerLimitOf(c.Metadata); f != (FormerLimit{}) || LimitIsOpen(c) {
		t.Fatalf("remembered %+v", f)
	}
	raise(200)
	if f := FormerLimitOf(c.Metadata); f.Events != 50 || f.Sequence != math.MaxUint64 || !LimitIsOpen(c) {
		t.Fatalf("remembered %+v before it was closed", f)
	}
	c = CloseLimit(&jetstream.StreamInfo{Config: c, State: jetstream.StreamState{LastSeq: 7, LastTime: at}})
	if f := FormerLimitOf(c.Metadata); f.Events != 50 || f.Sequence != 7 || !f.Time.Equal(at) || LimitIsOpen(c) {
		t.Fatalf("remembered %+v", f)
	}
	raise(-1)
	if f := FormerLimitOf(c.Metadata); f.Events != 50 || f.Sequence != math.MaxUint64 || !LimitIsOpen(c) {
		t.Fatalf("remembered %+v after the second time", f)
	}
	if c.Metadata["other"] != "kept" {
		t.Error("other metadata are gone")
	}
}

func TestMetadataThatCannotBeReadGoForEveryPlace(t *testing.T) {
	for _, m := range []map[string]string{
		{metadataLimitWas: "x", metadataLimitUntil: "7 2026-01-01T00:00:00Z"},
		{metadataLimitWas: "5", metadataLimitUntil: "7"},
		{metadataLimitWas: "5", metadataLimitUntil: "x y"},
		{metadataLimitWas: "5"},
	} {
		if f := FormerLimitOf(m); f.Events < 1 || f.Events == 5 && f.Sequence != math.MaxUint64 {
			t.Errorf("%v: %+v", m, f)
		}
	}
}
