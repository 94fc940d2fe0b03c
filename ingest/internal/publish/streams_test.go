package publish

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/shared/config"
	"canopy/shared/event"
	"canopy/shared/natstest"
	"canopy/shared/stream"
	"canopy/shared/subject"
)

// newStreams makes the streams of a publisher that does not run.
func newStreams(t *testing.T, nc *nats.Conn, cfg config.Ingest) (*Streams, *Publisher) {
	t.Helper()
	p := New(nc, cfg, zap.NewNop(), prometheus.NewRegistry())
	s, err := NewStreams(cfg, p, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	return s, p
}

func TestAStreamThatIsGoneIsMadeAgainWhileNothingIsPublished(t *testing.T) {
	const shards = 3
	nc := natstest.Start(t).Connect()
	s, p := newStreams(t, nc, ingestConfig(shards))
	s.every = 30 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	name := subject.Stream(1)
	old, err := s.js.Stream(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.js.DeleteStream(ctx, name); err != nil {
		t.Fatal(err)
	}
	var made jetstream.Stream
	eventually(t, 10*time.Second, "the stream is there again", func() bool {
		made, err = s.js.Stream(ctx, name)
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Fatal(err)
		}
		return err == nil
	})
	log := event.LogOf(made.CachedInfo().Created)
	if log == event.LogOf(old.CachedInfo().Created) {
		t.Fatal("it was not deleted")
	}
	eventually(t, 10*time.Second, "ingest knows it", func() bool {
		return event.Log(p.beacons.logs[1].Load()) == log && s.Check() == nil
	})

	// What another ingest has made is noticed, too.
	if err := s.js.DeleteStream(ctx, name); err != nil {
		t.Fatal(err)
	}
	other, err := s.js.CreateOrUpdateStream(ctx, s.want(jetstream.StreamConfig{Replicas: 1}, 1))
	if err != nil {
		t.Fatal(err)
	}
	log = event.LogOf(other.CachedInfo().Created)
	eventually(t, 10*time.Second, "ingest knows the other's", func() bool { return event.Log(p.beacons.logs[1].Load()) == log })
}

func TestARaisedLimitOfEventsIsNotedInTheStream(t *testing.T) {
	nc := natstest.Start(t).Connect()
	cfg := ingestConfig(1)
	ensure := func(limit int64) *jetstream.StreamInfo {
		t.Helper()
		cfg.Retention.EventsPerApplication = limit
		s, _ := newStreams(t, nc, cfg)
		st, err := s.js.Stream(t.Context(), subject.Stream(0))
		if err != nil {
			t.Fatal(err)
		}
		return st.CachedInfo()
	}
	ensure(5)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := js.PublishMsg(t.Context(), natstest.Message(1, "app", "", `{"n":1}`)); err != nil {
			t.Fatal(err)
		}
	}
	info := ensure(5)
	if f := stream.FormerLimitOf(info.Config.Metadata); f != (stream.FormerLimit{}) || info.State.Msgs != 5 {
		t.Fatalf("with %d events before the limit is raised: %+v", info.State.Msgs, f)
	}
	for range 2 { // the second time nothing changes
		info = ensure(100)
		f := stream.FormerLimitOf(info.Config.Metadata)
		if f.Events != 5 || f.Sequence != 10 || !f.Time.Equal(info.State.LastTime) || info.Config.MaxMsgsPerSubject != 100 {
			t.Errorf("limit %d, noted %+v", info.Config.MaxMsgsPerSubject, f)
		}
	}
	// An ingest that died in between: the next one closes the note.
	open := info.Config
	delete(open.Metadata, "canopy.limit_until")
	if _, err := js.UpdateStream(t.Context(), open); err != nil {
		t.Fatal(err)
	}
	if f := stream.FormerLimitOf(ensure(100).Config.Metadata); f.Events != 5 || f.Sequence != 10 {
		t.Errorf("noted %+v after a start in between", f)
	}
}
