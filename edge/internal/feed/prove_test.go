package feed

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"canopy/shared/event"
	"canopy/shared/subject"
)

func TestALastProofThatFailsIsTriedAgainWithWhatWasRead(t *testing.T) {
	h, js, _ := startHub(t, roomy, nil, nil)
	log := fill(t, js, 10)
	attach(t, h, Filter{}, Since{})
	stream, err := js.Stream(t.Context(), subject.Stream(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(6)); err != nil {
		t.Fatal(err)
	}
	f := h.feeds["app"]
	// As a repair that has read the events from 6 on, while 1 to 5 were forgotten.
	p := proof{after: event.Cursor{Log: log}, at: time.Now(), end: 11}
	h.history.leaders.note(0, leader{asked: time.Now()}, errNoMajority)
	if err := f.readOn(t.Context(), &p); !errors.Is(err, errNoMajority) {
		t.Fatalf("the proof without a leader: %v", err)
	}
	if n := gapsOf(t, h); n != 0 {
		t.Fatalf("%v gaps were told before anybody could know", n)
	}
	await(t, "the leader is asked again", func() bool { return f.readOn(t.Context(), &p) == nil })
	if n := count(t, h.stats.gaps.WithLabelValues(event.GapRetention)); n != 1 {
		t.Errorf("%v gaps were told, want 1", n)
	}
}
