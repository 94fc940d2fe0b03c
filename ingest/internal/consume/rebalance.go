package consume

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

func (c *Consumer) onAssigned(_ context.Context, _ *kgo.Client, numbers map[string][]int32) {
	for topic, ns := range numbers {
		for _, n := range ns {
			c.partitions.put(newPartition(topic, n, c.window))
		}
	}
	if len(numbers) > 0 {
		c.log.Info("partitions assigned", zap.Any("partitions", numbers))
	}
	if list := outsiders(c.cfg.Topics, numbers); len(list) > 0 {
		c.log.Warn("a pattern of INGEST__TOPICS has found topics that are no application's: whoever writes there chooses whose events they are",
			zap.Strings("topics", list))
	}
}

// onRevoked settles what is in flight before the partitions are given away. franz-go calls
// it while no poll is being worked on.
func (c *Consumer) onRevoked(_ context.Context, _ *kgo.Client, numbers map[string][]int32) {
	list := c.partitions.of(numbers)
	if len(list) == 0 {
		return
	}
	wait := revokeWait
	if c.draining.Load() {
		wait = 0 // the drain has waited
	}
	left := c.close(list, wait)
	c.committing.Lock()
	defer c.committing.Unlock()
	c.commit(list)
	c.partitions.remove(list)
	c.log.Info("partitions given away", zap.Any("partitions", numbers), zap.Int("unsettled", left))
}

// onLost drops partitions that are somebody else's already: a commit would undo theirs.
func (c *Consumer) onLost(_ context.Context, _ *kgo.Client, numbers map[string][]int32) {
	list := c.partitions.of(numbers)
	if len(list) == 0 {
		return
	}
	c.drop(list)
	c.log.Warn("partitions lost", zap.Any("partitions", numbers))
}

func (c *Consumer) drop(list []*Partition) {
	c.close(list, 0)
	c.committing.Lock()
	defer c.committing.Unlock()
	c.partitions.remove(list)
}

// close lets nothing more of list be handed over, waits until all is settled but not longer
// than wait, and stops what is not. It returns for how many partitions that was so.
func (c *Consumer) close(list []*Partition, wait time.Duration) (unsettled int) {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	idle := make([]<-chan struct{}, len(list))
	for i, p := range list {
		idle[i] = p.close()
	}
	over := false
	for i, p := range list {
		if !over {
			select {
			case <-idle[i]:
			case <-deadline.C:
				over = true
			}
		}
		select {
		case <-idle[i]:
		default:
			unsettled++
		}
		c.sink.Forget(p)
	}
	return unsettled
}

// fetchFailed reports an error of one partition.
func (c *Consumer) fetchFailed(topic string, f *kgo.FetchPartition) bool {
	if errors.Is(f.Err, context.Canceled) || errors.Is(f.Err, context.DeadlineExceeded) || errors.Is(f.Err, kgo.ErrClientClosed) {
		return false
	}
	c.metrics.fetchErrors.Inc()
	var loss *kgo.ErrDataLoss
	if errors.As(f.Err, &loss) {
		c.metrics.lost.Add(float64(max(loss.ConsumedTo-loss.ResetTo, 1)))
		c.log.Error("Kafka has lost records", zap.String("topic", topic), zap.Int32("partition", f.Partition), zap.Error(f.Err))
		return true
	}
	if c.limit.Allow() {
		c.log.Warn("cannot read from Kafka", zap.String("topic", topic), zap.Int32("partition", f.Partition), zap.Error(f.Err))
	}
	return true
}

// healTopics lets go of topics that were deleted and made again: franz-go would ask for the
// old ones for ever.
func (c *Consumer) healTopics(fetches kgo.Fetches) {
	unknown := map[string]bool{}
	fetches.EachError(func(topic string, _ int32, err error) {
		if errors.Is(err, kerr.UnknownTopicID) {
			unknown[topic] = true
		}
	})
	for topic := range unknown {
		since, seen := c.unknown[topic]
		if !seen || time.Since(since) > unknownUntil {
			c.unknown[topic] = time.Now()
			continue
		}
		if time.Since(since) < unknownFor {
			continue
		}
		delete(c.unknown, topic)
		c.log.Warn("topic was deleted; if it is made again, it is read from its start", zap.String("topic", topic))
		c.drop(c.partitions.ofTopic(topic))
		c.client.PurgeTopicsFromConsuming(topic)
		if topics, _ := chooseTopics(c.cfg.Topics); !topics.isRegex {
			c.client.AddConsumeTopics(topic)
		}
	}
}
