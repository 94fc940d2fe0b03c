package feed

import (
	"testing"
	"time"

	"canopy/shared/event"
	"canopy/shared/natstest"
	"canopy/shared/stream"
)

func TestWhatASmallerLimitHasCostIsTold(t *testing.T) {
	server := natstest.Start(t)
	js := natstest.Streams(t, server.Connect(), 1)
	small := natstest.StreamConfig(0, 1)
	small.MaxMsgsPerSubject = 5
	if _, err := js.UpdateStream(t.Context(), small); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := js.PublishMsg(t.Context(), natstest.Message(1, "neighbour", "", `{"n":1}`)); err != nil {
		t.Fatal(err) // so that the stream's first event is still there
	}
	publish(t, js, 1, 10) // 1 to 5, at 2 to 6, are lost
	large := small
	large.MaxMsgsPerSubject = 100
	stream.RaiseLimit(small, &large)
	raised, err := js.UpdateStream(t.Context(), large)
	if err != nil {
		t.Fatal(err)
	}
	if n := raised.CachedInfo().State.Msgs; n != 6 {
		t.Fatalf("the stream holds %d events, want 6: nothing was lost", n)
	}
	if _, err := js.UpdateStream(t.Context(), stream.CloseLimit(raised.CachedInfo())); err != nil {
		t.Fatal(err)
	}
	closed := time.Now()
	publish(t, js, 11, 12)

	nc := server.Connect()
	h := runHub(t, nc, nc, nil)
	at := func(n uint64) Since {
		return Since{kind: fromCursor, cursor: event.Cursor{Log: h.Log(0), Sequence: n}}
	}
	for _, c := range []struct {
		name   string
		since  Since
		events int
		gap    bool
	}{
		{"behind an event that was lost", at(3), 7, true},
		{"behind the last one that was lost", at(6), 7, false},
		{"before the limit was raised, and all is there", at(9), 4, false},
		{"behind the last event that the old limit had to do with", at(11), 2, false},
		{"since a time before all", Since{kind: fromTime, at: began}, 7, true},
		{"since a time after the limit was raised", Since{kind: fromTime, at: closed}, 2, false},
	} {
		before := gapsOf(t, h)
		s := attach(t, h, Filter{}, c.since)
		want := c.events
		if c.gap {
			want++
		}
		s.until(t, c.name, func() bool { return s.whole() >= want })
		s.mu.Lock()
		list := numbersOf(t, s.got.Bytes())
		s.mu.Unlock()
		if gaps := gapsOf(t, h) - before; gaps > 0 != c.gap || len(list) != want || c.gap != (list[0] == 0) {
			t.Errorf("%s: got %v with %v gaps, want %d events, a gap: %v", c.name, list, gaps, c.events, c.gap)
		}
	}
}

func TestTheLogOfAStreamThatIsNotThereIsUnknown(t *testing.T) {
	h, _, _ := startHub(t, roomy, nil, nil) // of one shard
	for shard, known := range []bool{true, false, false} {
		if log := h.Log(shard); (log != 0) != known {
			t.Errorf("shard %d has log %v", shard, log)
		}
	}
}
