package load

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"canopy/shared/topic"
)

// Topic publishes numbered events of one application to one partition of a Kafka topic,
// as CloudEvents in binary mode. Its methods are for one goroutine.
type Topic struct {
	client      *kgo.Client
	application string
	topic       string
	size        int
	next        uint64
}

// OpenTopic begins with event 1 of application, in the topic that its events have. Once
// converted to JSON every event has size bytes. The topic must exist; Close ends the
// connection.
func OpenTopic(brokers []string, application string, size int) (*Topic, error) {
	if err := checkSize(application, size); err != nil {
		return nil, err
	}
	name := topic.Of(application)
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers...),
		kgo.DefaultProduceTopic(name),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), // one partition, so that numbers stay in order
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerLinger(0),                    // or each event would first wait 10 ms for others
		kgo.MetadataMinAge(250*time.Millisecond), // a missing topic is an error within seconds
	)
	if err != nil {
		return nil, fmt.Errorf("connect to Kafka: %w", err)
	}
	return &Topic{client: client, application: application, topic: name, size: size, next: 1}, nil
}

// Publish sends the next events, rate a second or all at once if rate is 0, and returns
// when Kafka has acknowledged all of them.
func (t *Topic) Publish(ctx context.Context, events int, rate float64) error {
	var mu sync.Mutex
	var refused error
	err := pace(ctx, events, rate, func() error {
		t.client.Produce(ctx, t.record(), func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if refused == nil {
				refused = err
			}
		})
		return nil
	})
	if err == nil {
		err = t.client.Flush(ctx)
	}
	mu.Lock()
	defer mu.Unlock()
	if err == nil {
		err = refused
	}
	if err != nil {
		return fmt.Errorf("publish to topic %s: %w", t.topic, err)
	}
	return nil
}

// Next is the number of the event that comes next.
func (t *Topic) Next() uint64 { return t.next }

// Close ends the connection to Kafka.
func (t *Topic) Close() { t.client.Close() }

func (t *Topic) record() *kgo.Record {
	at := time.Now().UnixNano()
	id := strconv.FormatUint(t.next, 10)
	pad := t.size - len(appendEvent(nil, t.application, t.next, at, 0))
	r := &kgo.Record{Value: appendData(nil, t.next, at, pad)}
	for _, h := range [...][2]string{
		{"ce_specversion", "1.0"}, {"ce_id", id}, {"ce_type", "io.drogue.event.v1"},
		{"ce_source", "drogue://bench/device"}, {"ce_subject", channel}, {"ce_time", "2026-01-01T00:00:00Z"},
		{"ce_application", t.application}, {"ce_device", device}, {"content-type", "application/json"},
	} {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h[0], Value: []byte(h[1])})
	}
	t.next++
	return r
}
