package consume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
)

// commitDue commits what has become committable.
func (c *Consumer) commitDue() {
	c.committing.Lock()
	defer c.committing.Unlock()
	c.commit(c.partitions.all())
}

// commit commits the settled prefixes of list, with a deadline of its own: the context of
// a drain has ended, and a commit may wait for a whole rebalance. It needs committing held.
func (c *Consumer) commit(list []*Partition) {
	offsets := make(map[string]map[int32]kgo.EpochOffset)
	at := make(map[string]map[int32]*Partition)
	for _, p := range list {
		pos, due := p.due()
		if !due {
			continue
		}
		if offsets[p.topic] == nil {
			offsets[p.topic] = make(map[int32]kgo.EpochOffset)
			at[p.topic] = make(map[int32]*Partition)
		}
		offsets[p.topic][p.number] = kgo.EpochOffset{Epoch: pos.epoch, Offset: pos.offset}
		at[p.topic][p.number] = p
	}
	if len(offsets) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	var failed error
	c.client.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if failed = err; err != nil || resp == nil {
			return
		}
		for _, t := range resp.Topics {
			for _, rp := range t.Partitions {
				if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
					failed = fmt.Errorf("%s/%d: %w", t.Topic, rp.Partition, err)
				} else if p := at[t.Topic][rp.Partition]; p != nil {
					eo := offsets[t.Topic][rp.Partition]
					p.wasCommitted(position{eo.Offset, eo.Epoch})
				}
			}
		}
	})
	if failed != nil {
		c.metrics.commitErrors.Inc()
		if c.limit.Allow() {
			c.log.Warn("cannot commit offsets; they are committed later", zap.Error(failed))
		}
	}
}

// drain waits for what was handed over, commits, and gives everything away.
func (c *Consumer) drain() {
	start := time.Now()
	c.draining.Store(true)
	c.waiting = nil
	left := c.close(c.partitions.all(), drainWait)
	c.commitDue()
	c.log.Info("drained", zap.Duration("took", time.Since(start)), zap.Int("unsettled_partitions", left))
}

// look asks Kafka where the assigned partitions end, which is the lag, and whether it answers.
func (c *Consumer) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	list := c.partitions.all()
	if len(list) == 0 {
		if c.client.Ping(ctx) == nil {
			c.lastAnswer.Store(time.Now().UnixMilli())
		}
		return
	}
	topics := make(map[string]bool)
	var names []string
	for _, p := range list {
		if !topics[p.topic] {
			topics[p.topic] = true
			names = append(names, p.topic)
		}
	}
	ends, err := kadm.NewClient(c.client).ListEndOffsets(ctx, names...)
	if err != nil {
		return
	}
	c.lastAnswer.Store(time.Now().UnixMilli())
	for _, p := range list {
		if end, ok := ends.Lookup(p.topic, p.number); ok && end.Err == nil {
			p.ends(end.Offset)
		}
	}
}

// startAtEnd gives a new group the ends of all topics that there are, if the configuration
// says latest. Afterwards everything without an offset is new, and read from its start. It
// tries until Kafka answers.
func (c *Consumer) startAtEnd(ctx context.Context) error {
	if c.cfg.Start != "latest" {
		return nil
	}
	client, err := kgo.NewClient(c.plain...)
	if err != nil {
		return fmt.Errorf("make Kafka client: %w", err)
	}
	defer client.Close()
	for {
		err := c.commitEnds(ctx, kadm.NewClient(client))
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.log.Warn("cannot set the new group's start yet; trying again", zap.Error(err))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

func (c *Consumer) commitEnds(ctx context.Context, adm *kadm.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 2*commitTimeout)
	defer cancel()
	has, err := adm.FetchOffsets(ctx, c.cfg.Group)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return fmt.Errorf("read offsets of group %s: %w", c.cfg.Group, err)
	}
	if len(has) > 0 {
		return nil
	}
	topics, err := chooseTopics(c.cfg.Topics)
	if err != nil {
		return err
	}
	match := topics.matcher()
	all, err := adm.ListTopics(ctx)
	if err != nil {
		return fmt.Errorf("list topics: %w", err)
	}
	var names []string
	for name := range all {
		if match(name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	ends, err := adm.ListEndOffsets(ctx, names...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("list ends of topics: %w", err)
	}
	err = adm.CommitAllOffsets(ctx, c.cfg.Group, ends.Offsets())
	if errors.Is(err, kerr.UnknownMemberID) || errors.Is(err, kerr.RebalanceInProgress) {
		return nil // the group has members, and so is not new
	}
	if err != nil {
		return fmt.Errorf("commit ends of topics: %w", err)
	}
	c.log.Info("the new consumer group starts at the end of the topics", zap.Strings("topics", names))
	return nil
}
