package stream

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

func TestAnEvictionIsNotedOnceAndForgottenAfterTheStreamHasPassedIt(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	c := jetstream.StreamConfig{MaxAge: time.Hour, Metadata: map[string]string{"other": "kept"}}
	note := func(application string, want bool) {
		t.Helper()
		var changed bool
		if c, changed = NoteEvicted(c, application, now); changed != want {
			t.Errorf("noting %s changed: %v, want %v", application, changed, want)
		}
	}
	note("a", true)
	note("a", false)
	if !Evicted(c.Metadata, "a") || Evicted(c.Metadata, "b") {
		t.Fatalf("noted: %v", c.Metadata)
	}
	now = now.Add(40 * time.Minute)
	note("a", true) // again, so that it does not grow old while it goes on
	now = now.Add(90 * time.Minute)
	note("b", true)
	if !Evicted(c.Metadata, "a") {
		t.Error("forgotten too early")
	}
	now = now.Add(40 * time.Minute)
	note("b", true)
	if Evicted(c.Metadata, "a") || !Evicted(c.Metadata, "b") || c.Metadata["other"] != "kept" {
		t.Errorf("left: %v", c.Metadata)
	}
}

func TestMoreEvictionsThanAreNotedGoForEveryApplication(t *testing.T) {
	c := jetstream.StreamConfig{}
	for i := range maxEvicted + 10 {
		c, _ = NoteEvicted(c, fmt.Sprint("app-", i), time.Now())
	}
	if !Evicted(c.Metadata, "another") {
		t.Error("nothing is said of the application that found no room")
	}
	if len(c.Metadata) != maxEvicted+1 {
		t.Errorf("%d notes", len(c.Metadata))
	}
	if _, changed := NoteEvicted(c, "one more", time.Now()); changed {
		t.Error("the stream is changed for each further one")
	}
}

func TestTooManyEvictionsAreForgottenAsWell(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	c := jetstream.StreamConfig{MaxAge: time.Hour}
	for i := range maxEvicted + 1 {
		c, _ = NoteEvicted(c, fmt.Sprint("app-", i), now)
	}
	now = now.Add(40 * time.Minute)
	var changed bool
	if c, changed = NoteEvicted(c, "another", now); !changed {
		t.Error("it grows old while it goes on")
	}
	now = now.Add(100 * time.Minute) // the single notes are gone, this one is not
	c, _ = NoteEvicted(c, "app-1", now)
	if !Evicted(c.Metadata, "another") {
		t.Error("forgotten too early")
	}
	now = now.Add(time.Hour)
	c, _ = NoteEvicted(c, "app-2", now)
	if Evicted(c.Metadata, "another") {
		t.Errorf("an application of which nothing is gone is told so for ever: %v", c.Metadata)
	}
}
