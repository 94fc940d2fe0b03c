// Package solo does alone one part of what stands between Kafka and the sockets, with the
// same libraries and in the same way, so that the whole can be measured beside it: it
// reads records from Kafka and discards them, publishes to JetStream, or feeds an edge
// from its memory.
package solo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kgo"

	"canopy/bench/child"
	"canopy/bench/load"
	"canopy/shared/subject"
	"canopy/shared/topic"
)

// Command is the argument that makes the bench program serve as a solo process.
const Command = "solo"

const (
	patience = 2 * time.Minute

	// As much as ingest fetches at once.
	fetchBytes          = 8 << 20
	fetchPartitionBytes = 1 << 20
)

// Took is when a part was done: from the first event to the last one.
type Took struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// Duration is the time between.
func (t Took) Duration() time.Duration { return t.To.Sub(t.From) }

type question struct {
	Do          string   `json:"do"` // poll, connect, publish, feed
	Brokers     []string `json:"brokers,omitempty"`
	NATS        string   `json:"nats,omitempty"`
	Application string   `json:"application,omitempty"`
	Size        int      `json:"size,omitempty"`
	Events      int      `json:"events,omitempty"`
	From        int64    `json:"from,omitempty"` // offset
}

// Serve is a solo process. It ends with in.
func Serve(in io.Reader, out io.Writer) error {
	s := &solo{}
	defer s.close()
	return child.Serve(in, out, func(q question) (any, error) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		switch {
		case q.Do == "poll":
			return poll(ctx, q)
		case q.Do == "connect" && s.nc == nil:
			return nil, s.connect(ctx, q)
		case q.Do == "publish" && s.nc != nil:
			return s.publish(ctx, q.Events)
		case q.Do == "feed" && s.nc != nil:
			return s.feed(q.Events)
		}
		return nil, fmt.Errorf("%s: not now", q.Do)
	})
}

// poll reads records from one partition and discards them. The clock starts when the
// client is connected.
func poll(ctx context.Context, q question) (took Took, err error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(q.Brokers...), kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxPartitionBytes(fetchPartitionBytes), kgo.MaxConcurrentFetches(1),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic.Of(q.Application): {0: kgo.NewOffset().At(q.From)}}),
	)
	if err != nil {
		return took, fmt.Errorf("connect to Kafka: %w", err)
	}
	defer client.Close()
	if err := client.Ping(ctx); err != nil {
		return took, fmt.Errorf("connect to Kafka: %w", err)
	}
	took.From = time.Now()
	for next := q.From; next < q.From+int64(q.Events); {
		fetches := client.PollFetches(ctx)
		if err := errors.Join(fetches.Err(), ctx.Err()); err != nil {
			return took, fmt.Errorf("poll: %w", err)
		}
		for _, r := range fetches.Records() {
			if r.Offset != next {
				return took, fmt.Errorf("poll: offset %d instead of %d", r.Offset, next)
			}
			next++
		}
	}
	took.To = time.Now()
	return took, nil
}

// solo is what publishes.
type solo struct {
	nc      *nats.Conn
	stream  *load.Stream
	live    string // subject
	fedUpTo uint64 // sequence
}

func (s *solo) connect(ctx context.Context, q question) (err error) {
	if s.nc, err = nats.Connect(q.NATS, nats.Name("canopy-bench solo")); err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	s.live = subject.Events(0, q.Application)
	s.stream, err = load.OpenStream(ctx, s.nc, q.Application, q.Size)
	return err
}

// publish makes events, and then publishes them as ingest does.
func (s *solo) publish(ctx context.Context, events int) (took Took, err error) {
	messages := s.stream.Messages(events)
	took.From = time.Now()
	err = load.PublishBatches(ctx, s.nc, messages)
	took.To = time.Now()
	return took, err
}

// feed makes events, and then sends them to those who follow the stream, past the stream.
func (s *solo) feed(events int) (took Took, err error) {
	messages := s.stream.Messages(events)
	took.From = time.Now()
	err = load.PublishLive(s.nc, messages, s.live, s.fedUpTo+1)
	took.To = time.Now()
	s.fedUpTo += uint64(events)
	return took, err
}

func (s *solo) close() {
	if s.nc != nil {
		s.nc.Close()
	}
}
