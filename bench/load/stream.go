package load

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"canopy/shared/event"
	"canopy/shared/stream"
	"canopy/shared/subject"
)

const (
	shards       = 1 // one application uses one stream, however many there are
	streamAge    = time.Hour
	maxInFlight  = 4_096 // unacknowledged events
	noStallLimit = time.Minute
)

// Stream publishes numbered events to JetStream as ingest does: same
// stream, subject and headers. Its methods are for one goroutine.
type Stream struct {
	js          jetstream.JetStream
	application string
	subject     string
	size        int
	next        uint64
}

// OpenStream makes the stream, as ingest makes it for one server, and begins with event
// 1 of application, of size bytes.
func OpenStream(ctx context.Context, nc *nats.Conn, application string, size int) (*Stream, error) {
	if err := checkSize(application, size); err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxInFlight))
	if err != nil {
		return nil, fmt.Errorf("make JetStream context: %w", err)
	}
	shard := subject.Shard(application, shards)
	_, err = js.CreateOrUpdateStream(ctx, stream.Config(jetstream.StreamConfig{
		MaxAge:            streamAge,
		MaxMsgsPerSubject: 1_000_000,
		MaxConsumers:      100_000,
		Duplicates:        2 * time.Minute,
	}, shard, shards))
	if err != nil {
		return nil, fmt.Errorf("make stream %s: %w", subject.Stream(shard), err)
	}
	return &Stream{js: js, application: application, subject: subject.In(shard, application), size: size, next: 1}, nil
}

// Of is a stream of events of another application, in the same stream of JetStream.
func (s *Stream) Of(application string) (*Stream, error) {
	if err := checkSize(application, s.size); err != nil {
		return nil, err
	}
	shard := subject.Shard(application, shards)
	return &Stream{js: s.js, application: application, subject: subject.In(shard, application), size: s.size, next: 1}, nil
}

// PublishEach sends the next event of each of streams, all at once, and returns when
// JetStream has acknowledged all of them.
func PublishEach(ctx context.Context, streams []*Stream) error {
	acks := make([]jetstream.PubAckFuture, 0, len(streams))
	for _, s := range streams {
		ack, err := s.js.PublishMsgAsync(s.message(), jetstream.WithStallWait(noStallLimit))
		if err != nil {
			return fmt.Errorf("publish to %s: %w", s.subject, err)
		}
		acks = append(acks, ack)
	}
	for i, ack := range acks {
		if err := acknowledged(ctx, ack); err != nil {
			return fmt.Errorf("publish to %s: %w", streams[i].subject, err)
		}
	}
	return nil
}

// Next is the number of the event that comes next.
func (s *Stream) Next() uint64 { return s.next }

// Publish sends the next events, rate a second or all at once if rate is 0, and returns
// when JetStream has acknowledged all of them.
func (s *Stream) Publish(ctx context.Context, events int, rate float64) error {
	acks := make([]jetstream.PubAckFuture, 0, events)
	err := pace(ctx, events, rate, func() error {
		ack, err := s.js.PublishMsgAsync(s.message(), jetstream.WithStallWait(noStallLimit))
		acks = append(acks, ack)
		return err
	})
	if err != nil {
		return fmt.Errorf("publish event %d: %w", s.next-1, err)
	}
	for _, ack := range acks {
		if err := acknowledged(ctx, ack); err != nil {
			return fmt.Errorf("publish to %s: %w", s.subject, err)
		}
	}
	return nil
}

func acknowledged(ctx context.Context, ack jetstream.PubAckFuture) error {
	select {
	case <-ack.Ok():
		return nil
	case err := <-ack.Err():
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// message makes the next event as ingest publishes it.
func (s *Stream) message() *nats.Msg {
	now := time.Now()
	m := nats.NewMsg(s.subject)
	m.Data = appendEventOf(make([]byte, 0, s.size), s.application, s.next, now.UnixNano(), s.size)
	m.Header.Set(jetstream.MsgIDHeader, s.application+"/0/"+strconv.FormatUint(s.next, 10))
	m.Header.Set(event.HeaderChannel, channel)
	m.Header.Set(event.HeaderDevice, device)
	m.Header.Set(event.HeaderAppended, strconv.FormatInt(now.UnixMilli(), 10))
	s.next++
	return m
}
