//go:build linux

package under

import (
	"errors"
	"fmt"
	"io"

	"github.com/twmb/franz-go/pkg/kfake"

	"canopy/bench/child"
)

// KafkaCommand is the argument that makes the bench program serve as an embedded Kafka.
const KafkaCommand = "kafka"

type kafkaQuestion struct {
	Topics []string `json:"topics"`
}

// ServeKafka is an embedded Kafka in a process of its own, which keeps records in memory.
// It starts when it is told its topics, and ends with in.
func ServeKafka(in io.Reader, out io.Writer) error {
	var running *kfake.Cluster
	defer func() {
		if running != nil {
			running.Close()
		}
	}()
	return child.Serve(in, out, func(q kafkaQuestion) (any, error) {
		if running != nil {
			return nil, errors.New("the broker runs already")
		}
		// One partition, so that events have one order from end to end.
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, q.Topics...))
		if err != nil {
			return nil, fmt.Errorf("make broker: %w", err)
		}
		running = cluster
		return cluster.ListenAddrs(), nil
	})
}

// Kafka is a running embedded Kafka.
type Kafka struct {
	*child.Process
	brokers []string
}

// StartKafka starts a broker with topics of one partition each. The program must serve
// KafkaCommand.
func StartKafka(topics ...string) (*Kafka, error) {
	p, err := child.Start(KafkaCommand)
	if err != nil {
		return nil, err
	}
	k := &Kafka{Process: p}
	if err := p.Ask(kafkaQuestion{topics}, &k.brokers); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return k, nil
}

// Brokers are the addresses to connect to.
func (k *Kafka) Brokers() []string { return k.brokers }
