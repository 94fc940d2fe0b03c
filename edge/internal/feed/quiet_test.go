package feed

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"canopy/shared/event"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

// neighbours stores events of another application in the stream.
func neighbours(t *testing.T, js jetstream.JetStream, n int) {
	t.Helper()
	for range n {
		if _, err := js.PublishMsg(t.Context(), natstest.Message(1, "neighbour", "", `{"n":1}`)); err != nil {
			t.Fatal(err)
		}
	}
}

// expire has the stream forget what stands before a sequence.
func expire(t *testing.T, js jetstream.JetStream, before uint64) {
	t.Helper()
	stream, err := js.Stream(t.Context(), subject.Stream(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(before)); err != nil {
		t.Fatal(err)
	}
}

func TestAnApplicationThatWasQuietForLongerThanItsEventsAreKeptTellsNoGap(t *testing.T) {
	h, js, _ := startHub(t, roomy, nil, func(c *Config) { c.Backstop = 100 * time.Millisecond })
	s := attach(t, h, Filter{}, Since{})
	publish(t, js, 1, 1) // sequence 1
	expect(t, s, 1, 1, 1)
	neighbours(t, js, 20) // 2 to 21
	looks := count(t, h.stats.looks)
	await(t, "the leader was asked since", func() bool { return count(t, h.stats.looks) >= looks+3 })
	expire(t, js, 12)
	neighbours(t, js, 1) // 22
	publish(t, js, 2, 2) // 23
	s.until(t, "the event behind the pause", func() bool { return s.whole() >= 2 })
	if n := gapsOf(t, h); n != 0 {
		t.Errorf("%v gaps were told although nothing is missing", n)
	}
}

func TestAPlaceOfWhichNothingIsLeftTellsAGap(t *testing.T) {
	h, js, _ := startHub(t, roomy, nil, nil)
	log := fill(t, js, 5)
	neighbours(t, js, 20) // 6 to 25
	expire(t, js, 10)
	// Its client had 2, and misses 3 to 5.
	s := attach(t, h, Filter{}, Since{kind: fromCursor, cursor: event.Cursor{Log: log, Sequence: 2}})
	await(t, "it is in the live feed", func() bool { return h.replaying() == 0 })
	publish(t, js, 6, 6)
	s.until(t, "what it gets", func() bool { return s.whole() >= 1 && s.Cursor().Sequence == 26 })
	if n := count(t, h.stats.gaps.WithLabelValues(event.GapRetention)); n != 1 {
		t.Errorf("%v gaps were told, want 1", n)
	}
}

func TestTimesOfWhichNothingIsLeft(t *testing.T) {
	h, js, _ := startHub(t, roomy, nil, nil)
	before := time.Now()
	fill(t, js, 5)
	neighbours(t, js, 10) // 6 to 15
	between := time.Now()
	neighbours(t, js, 10) // 16 to 25
	since := func(at time.Time, want float64, what string) {
		t.Helper()
		told := count(t, h.stats.gaps.WithLabelValues(event.GapRetention))
		attach(t, h, Filter{}, Since{kind: fromTime, at: at})
		await(t, "it is in the live feed", func() bool { return h.replaying() == 0 })
		if n := count(t, h.stats.gaps.WithLabelValues(event.GapRetention)) - told; n != want {
			t.Errorf("%s: %v gaps were told, want %v", what, n, want)
		}
	}
	expire(t, js, 10)
	since(before, 1, "events behind that time are forgotten")
	since(between, 0, "there were none behind that time")
	expire(t, js, 26) // all
	since(before, 1, "the stream is empty and has forgotten events")
	since(between, 1, "the stream has forgotten other events behind that time")
	since(time.Now(), 0, "nothing has come behind that time")
}

func TestAPlaceBeforeOthersEventsOfWhichNothingIsMissingTellsNoGap(t *testing.T) {
	h, js, _ := startHub(t, roomy, nil, nil)
	log := fill(t, js, 2)
	neighbours(t, js, 20) // 3 to 22
	expire(t, js, 2)
	s := attach(t, h, Filter{}, Since{kind: fromCursor, cursor: event.Cursor{Log: log, Sequence: 7}})
	await(t, "it is in the live feed", func() bool { return h.replaying() == 0 })
	publish(t, js, 3, 3)
	s.until(t, "what it gets", func() bool { return s.whole() >= 1 && s.Cursor().Sequence == 23 })
	if n := gapsOf(t, h); n != 0 {
		t.Errorf("%v gaps were told although nothing is missing", n)
	}
}
