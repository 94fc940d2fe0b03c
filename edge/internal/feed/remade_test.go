package feed

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"canopy/shared/event"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

// makeAnew deletes the stream and makes it again.
func makeAnew(t *testing.T, js jetstream.JetStream, cfg jetstream.StreamConfig) {
	t.Helper()
	const storeFailed = 10049 // while the server still removes the old files
	if err := js.DeleteStream(t.Context(), cfg.Name); err != nil {
		t.Fatal(err)
	}
	await(t, "the stream is made anew", func() bool {
		_, err := js.CreateStream(t.Context(), cfg)
		var api *jetstream.APIError
		if errors.As(err, &api) && api.ErrorCode == storeFailed {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		return true
	})
}

func TestAFeedThatOpensKnowsThatItsStreamWasMadeAnew(t *testing.T) {
	h, js, _ := startHub(t, roomy, nil, nil)
	old := h.Log(0)
	makeAnew(t, js, natstest.StreamConfig(0, 1))
	log := fill(t, js, 5)
	if log == old {
		t.Fatal("the stream is the same")
	}
	s := attach(t, h, Filter{}, Since{}) // nothing has told the hub
	if h.Log(0) != log || s.Cursor().Log != log {
		t.Errorf("the stream is %x; the hub says %x, the socket's cursor %v", log, h.Log(0), s.Cursor())
	}
	fill(t, js, 3)
	expect(t, s, 6, 8, 1)
	if n := gapsOf(t, h); n != 0 {
		t.Errorf("%v gaps were told", n)
	}
}

func TestTheGapOfAStreamMadeAnewSaysWhereEventsGoOn(t *testing.T) {
	for _, c := range []struct {
		name   string
		limit  int64 // of events that the new stream keeps
		first  int   // event that is left
		events int   // in it
	}{
		{"all events are left", 100, 6, 7},
		{"the first ones are gone already", 3, 10, 7},
		{"nothing is in it", 100, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			const others = 10
			var deaf atomic.Bool
			h, js, _ := startDeafHub(t, &deaf)
			s := attach(t, h, Filter{}, Since{})
			publish(t, js, 1, 5)
			expect(t, s, 1, 5, 1)
			old := s.Cursor()
			s.mu.Lock()
			had := s.got.Len()
			s.mu.Unlock()
			deaf.Store(true)
			h.mu.Lock()
			h.moved[0] = make(chan struct{}, 1) // as if it did not answer until it is filled
			h.mu.Unlock()
			cfg := natstest.StreamConfig(0, 1)
			cfg.MaxMsgsPerSubject = c.limit
			makeAnew(t, js, cfg)
			want := event.Cursor{Sequence: 1}
			want.Log = fill(t, js, 0)
			left := 0
			if c.events > 0 {
				for range others {
					if _, err := js.PublishMsg(t.Context(), natstest.Message(1, "neighbour", "", `{"n":1}`)); err != nil {
						t.Fatal(err)
					}
				}
				publish(t, js, 6, 5+c.events)
				left = 6 + c.events - c.first
				want.Sequence = uint64(others + c.events - left + 1)
			}
			deaf.Store(false)
			h.mu.Lock()
			delete(h.moved, 0)
			h.mu.Unlock()
			h.Reconnected()
			s.until(t, "the gap and what is left", func() bool { return s.whole() >= 5+1+left })
			s.mu.Lock()
			defer s.mu.Unlock()
			frame := s.got.Bytes()[had:]
			frame = frame[:firstFrame(frame)]
			var gap struct {
				Data struct{ Reason, After, Before string }
			}
			if err := json.Unmarshal(frame[bytes.IndexByte(frame, '{'):], &gap); err != nil {
				t.Fatalf("read %q: %v", frame, err)
			}
			if gap.Data.Reason != event.GapLog || gap.Data.After != old.String() || gap.Data.Before != want.String() {
				t.Errorf("told %+v, want that the log is another one behind %v and goes on at %v", gap.Data, old, want)
			}
			for i, n := range numbersOf(t, s.got.Bytes()[had+len(frame):]) {
				if n != c.first+i {
					t.Fatalf("event %d is %d (0: a gap)", c.first+i, n)
				}
			}
		})
	}
}

func TestWhatIsLeftOfAnOldLogHoldsNoFeedUp(t *testing.T) {
	h, js, _ := startHub(t, roomy, nil, nil)
	s := attach(t, h, Filter{}, Since{})
	publish(t, js, 1, 5)
	expect(t, s, 1, 5, 1)
	late := nats.NewMsg(subject.Events(0, "app")) // as if it had waited in the NATS client meanwhile
	late.Data = []byte(`{"n":900}`)
	late.Header.Set("Nats-Sequence", "900")
	late.Header.Set("Nats-Last-Sequence", "899")
	late.Header.Set("Nats-Time-Stamp", time.Now().UTC().Format(time.RFC3339Nano))
	makeAnew(t, js, natstest.StreamConfig(0, 1))
	log := fill(t, js, 0)
	h.Reconnected()
	f := h.feeds["app"]
	await(t, "the feed is in the new log", func() bool { return f.newest().Log == log })
	f.receive(late)
	publish(t, js, 6, 10)
	await(t, "the feed is live again", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return !f.chain.held
	})
	s.until(t, "a gap and the new events", func() bool { return s.whole() >= 5+1+5 })
	s.mu.Lock()
	defer s.mu.Unlock()
	if list := numbersOf(t, s.got.Bytes()); !slices.Equal(list, []int{1, 2, 3, 4, 5, 0, 6, 7, 8, 9, 10}) {
		t.Errorf("got %v, want 0 for the gap", list)
	}
}

func TestEventsOfAnotherLogAreNotReadAsThoseOfAFeed(t *testing.T) {
	var deaf atomic.Bool
	h, js, proxy := startDeafHub(t, &deaf)
	s := attach(t, h, Filter{}, Since{})
	publish(t, js, 1, 5)
	expect(t, s, 1, 5, 1)
	f := h.feeds["app"]
	old := f.newest()
	deaf.Store(true)
	makeAnew(t, js, natstest.StreamConfig(0, 1))
	publish(t, js, 11, 16)
	await(t, "the new events are lost", func() bool { return proxy.Dropped() >= 6 })
	await(t, "that is another log", func() bool {
		_, err := f.nextOf(t.Context(), event.Cursor{Log: old.Log, Sequence: old.Sequence + 1}, anchor{})
		return errors.Is(err, errOtherLog)
	})
}

func TestASocketThatComesToAnotherLogIsNotToldOfTheOldOne(t *testing.T) {
	f := newTestFeed(t, roomy)
	old, now, resumed := newFakeSocket(-1), newFakeSocket(-1), newFakeSocket(-1)
	f.join(old, Filter{})
	f.emit(5, 10, labels{})
	f.mu.Lock()
	f.repairing = true // nobody reads yet
	f.mu.Unlock()
	f.resume(9)
	f.join(now, Filter{})
	f.attach(&resumed.Reader, resumed, Filter{Channel: "odd", ByChannel: true}, begin{cursor: event.Cursor{Log: 9}})
	resumed.Release()
	old.until(t, "it is told", func() bool { return old.whole() == 2 })
	f.emit(7, 10, labels{channel: "odd", hasChannel: true})
	old.until(t, "the event comes", func() bool { return old.whole() == 3 })
	for _, s := range []*fakeSocket{now, resumed} {
		expect(t, s, 7, 7, 1)
	}
	if n := gapsOf(t, f.hub); n != 1 {
		t.Errorf("%v gaps were told, want 1", n)
	}
}
