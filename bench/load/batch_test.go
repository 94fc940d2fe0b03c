package load

import (
	"context"
	"strconv"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"canopy/shared/natstest"
	"canopy/shared/subject"
)

func TestBatchesAreStoredOnceAndInOrder(t *testing.T) {
	const events = 5*batchAhead + 7
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	nc := natstest.Start(t).Connect()
	s, err := OpenStream(ctx, nc, Application, 512)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time as another batch
		if err := PublishBatches(ctx, nc, s.Messages(events)); err != nil {
			t.Fatal(err)
		}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx, subject.Stream(0))
	if err != nil {
		t.Fatal(err)
	}
	if last := stream.CachedInfo().State.LastSeq; last != 2*events {
		t.Fatalf("%d events are stored instead of %d", last, 2*events)
	}
	for _, n := range []int{1, batchAhead, batchAhead + 1, events, events + 1, 2 * events} {
		m, err := stream.GetMsg(ctx, uint64(n))
		if err != nil || number(t, m.Data) != n {
			t.Errorf("message %d: %v", n, err)
		}
	}
}

func TestABatchThatIsNotStoredIsAnError(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	nc := natstest.Start(t).Connect()
	s, err := OpenStream(ctx, nc, Application, 512)
	if err != nil {
		t.Fatal(err)
	}
	messages := s.Messages(3)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(ctx, subject.Stream(0)); err != nil {
		t.Fatal(err)
	}
	if err := PublishBatches(ctx, nc, messages); err == nil {
		t.Error("no error")
	}
}

func TestWhatIsPublishedLiveLooksLikeTheStreams(t *testing.T) {
	const events = 3
	nc := natstest.Start(t).Connect()
	s, err := OpenStream(t.Context(), nc, Application, 512)
	if err != nil {
		t.Fatal(err)
	}
	live, err := nc.SubscribeSync(subject.Events(0, Application))
	if err != nil {
		t.Fatal(err)
	}
	next := func() *nats.Msg {
		m, err := live.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if err := s.Publish(t.Context(), 2, 0); err != nil {
		t.Fatal(err)
	}
	next()
	real := next()
	if err := PublishLive(nc, s.Messages(events), subject.Events(0, Application), 3); err != nil {
		t.Fatal(err)
	}
	for n := 3; n < 3+events; n++ {
		m := next()
		if number(t, m.Data) != n || m.Header.Get("Nats-Sequence") != strconv.Itoa(n) || m.Header.Get("Nats-Last-Sequence") != strconv.Itoa(n-1) {
			t.Errorf("message %d: %v", n, m.Header)
		}
		for name := range m.Header {
			if real.Header.Get(name) == "" {
				t.Errorf("the stream sends no header %s", name)
			}
		}
	}
	if at, err := strconv.ParseInt(real.Header.Get("Nats-Last-Sequence"), 10, 64); err != nil || at != 1 {
		t.Errorf("the stream's second message follows %d: %v", at, err)
	}
}
