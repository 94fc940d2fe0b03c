package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"canopy/shared/topic"
)

const (
	publicApplication  = "drogue-public-temperature"
	privateApplication = "example-app"

	feedInterval = 20 * time.Millisecond
)

// channels take turns: the events with even numbers are about the first one.
var channels = [...]string{"temperature", "humidity"}

// feed sends numbered events to the private application, in order.
type feed struct{ acknowledged atomic.Int64 }

// run sends until ctx ends.
func (f *feed) run(ctx context.Context, kafka string) error {
	producer, err := kgo.NewClient(kgo.SeedBrokers(kafka), kgo.AllowAutoTopicCreation())
	if err != nil {
		return fmt.Errorf("make Kafka client: %w", err)
	}
	defer producer.Close()
	tick := time.NewTicker(feedInterval)
	defer tick.Stop()
	for n := int64(0); ; n++ {
		err := producer.ProduceSync(ctx, numbered(n)).FirstErr()
		switch {
		case errors.Is(err, context.Canceled):
			return nil
		case err != nil:
			return fmt.Errorf("send event %d: %w", n, err)
		}
		f.acknowledged.Store(n)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// numbered is a record in the CloudEvents binding's binary mode. The sender is called like
// the channel for the sake of drg 0.11.0, whose stream --device X asks for the channel X and
// shows what the sender X has sent.
func numbered(n int64) *kgo.Record {
	channel := channels[n%int64(len(channels))]
	record := &kgo.Record{
		Topic: topic.Of(privateApplication),
		Key:   []byte(privateApplication + "/sensor"), // one partition, so in order
		Value: strconv.AppendInt(nil, n, 10),
	}
	for _, header := range [][2]string{
		{"ce_specversion", "1.0"},
		{"ce_id", strconv.FormatInt(n, 10)},
		{"ce_type", "io.drogue.event.v1"},
		{"ce_source", "drogue://" + privateApplication + "/sensor"},
		{"ce_subject", channel},
		{"content-type", "application/json"},
		{"ce_application", privateApplication},
		{"ce_device", "sensor"},
		{"ce_sender", channel},
	} {
		record.Headers = append(record.Headers, kgo.RecordHeader{Key: header[0], Value: []byte(header[1])})
	}
	return record
}
