package feed

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

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

func TestFeedsOfAStreamThatHasLostNothingShareTheProof(t *testing.T) {
	const applications = 64
	h, js, _ := startHub(t, roomy, nil, nil)
	log := fill(t, js, 10)
	var feeds []*Feed
	for i := range applications {
		name := fmt.Sprint("app-", i)
		s := newFakeSocket(-1)
		if err := h.Attach(t.Context(), name, Filter{}, Since{}, s, &s.Reader); err != nil {
			t.Fatal(err)
		}
		feeds = append(feeds, h.feeds[name])
	}
	before := count(t, h.stats.requests)
	var asking errgroup.Group
	for _, f := range feeds {
		asking.Go(func() error {
			sound, err := f.forgotten(t.Context(), event.Cursor{Log: log, Sequence: 5})
			if err == nil && sound != 5 {
				err = fmt.Errorf("something is missing behind 5, up to %d", sound)
			}
			return err
		})
	}
	if err := asking.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := count(t, h.stats.requests) - before; n > applications/4 {
		t.Errorf("%v requests to prove it for %d feeds", n, applications)
	}

	stream, err := js.Stream(t.Context(), subject.Stream(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), 4); err != nil { // now the stream's word is not enough
		t.Fatal(err)
	}
	if sound, err := h.feeds["app-1"].forgotten(t.Context(), event.Cursor{Log: log, Sequence: 5}); err != nil || sound != 5 {
		t.Errorf("an application that is below its limit: %d, %v", sound, err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(8)); err != nil {
		t.Fatal(err)
	}
	attach(t, h, Filter{}, Since{})
	if sound, err := h.feeds["app"].forgotten(t.Context(), event.Cursor{Log: log, Sequence: 5}); err != nil || sound != 7 {
		t.Errorf("events 6 and 7 are gone, and everything is sound behind %d, %v", sound, err)
	}
}
