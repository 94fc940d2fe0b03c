package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"canopy/shared/topic"
)

const (
	partitions   = 4
	segmentBytes = 16 << 20

	// Per partition. Without bounds the embedded broker grows for ever.
	retentionBytes    = 64 << 20
	retentionAge      = 24 * time.Hour
	retentionInterval = 30 * time.Second
)

// runKafka serves an embedded Kafka at addr, its data in dir, until ctx ends. It is one
// process that plays a broker: nothing is replicated. ready gets the address that was
// bound, after the topics of the two applications exist.
func runKafka(ctx context.Context, addr, dir string, log *zap.Logger, ready func(addr string)) error {
	age := strconv.FormatInt(retentionAge.Milliseconds(), 10)
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) { return net.Listen(network, addr) }),
		kfake.DataDir(dir),
		kfake.AllowAutoTopicCreation(),
		kfake.DefaultNumPartitions(partitions),
		kfake.GroupMinSessionTimeout(time.Second), // for INGEST__SESSION_TIMEOUT below its default
		kfake.BrokerConfigs(map[string]string{
			"log.retention.bytes": strconv.Itoa(retentionBytes),
			"log.retention.ms":    age,
			"log.segment.bytes":   strconv.Itoa(segmentBytes),
		}),
	)
	if err != nil {
		return fmt.Errorf("make broker: %w", err)
	}
	defer cluster.Close()
	bound := cluster.ListenAddrs()[0]
	for _, application := range []string{publicApplication, privateApplication} {
		if err := createTopic(ctx, bound, topic.Of(application)); err != nil {
			return err
		}
	}
	ready(bound)
	log.Debug("kafka runs", zap.String("address", bound))
	// The broker looks after retention by itself only where a topic sets it, and not after
	// a restart; topics that clients create do not set it.
	tick := time.NewTicker(retentionInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			cluster.ApplyRetention()
		}
	}
}

// createTopic makes sure that a topic exists.
func createTopic(ctx context.Context, broker, name string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(broker))
	if err != nil {
		return fmt.Errorf("make Kafka client: %w", err)
	}
	defer client.Close()
	// Replicas -1 is the broker's own default.
	_, err = kadm.NewClient(client).CreateTopic(ctx, partitions, -1, topicConfig(), name)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create topic %s: %w", name, err)
	}
	return nil
}

// topicConfig bounds a topic.
func topicConfig() map[string]*string {
	return map[string]*string{
		"retention.bytes": kadm.StringPtr(strconv.Itoa(retentionBytes)),
		"retention.ms":    kadm.StringPtr(strconv.FormatInt(retentionAge.Milliseconds(), 10)),
		"segment.bytes":   kadm.StringPtr(strconv.Itoa(segmentBytes)),
	}
}
