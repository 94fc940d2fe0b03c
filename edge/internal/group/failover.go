package group

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

const (
	// failoverAfter is how long a consumer of one copy gives no answer before it is made
	// again on another node. A restart of its node is mostly shorter.
	failoverAfter = 6 * time.Second

	// failoverJitter spreads the edges, which all notice at the same time: the first one
	// makes the consumer, and the others see it.
	failoverJitter = 3 * time.Second
)

// missed takes note of a look that failed. If the group's consumer has one copy and gave
// no answer for a while, it is made again on another node.
//
// That is safe whatever happens at the same time: the new one begins behind the place up
// to which the old one said that everything was acknowledged, so that nothing is lost. If
// two edges do it after all, or the old node is only slow, the same holds, and more comes
// again. What comes again was acknowledged after this edge's last look, or was in flight;
// and a node that is back sends for a moment from the old copy, until it hears of its end.
func (h *Hub) missed(ctx context.Context, g *Group, cause error) error {
	if h.config.Groups.Replicas != 1 || !silent(cause) {
		return cause
	}
	now := h.now()
	g.mu.Lock()
	if g.seen.failing == 0 {
		g.seen.failing, g.seen.failover = now, now+failoverAfter+rand.N(failoverJitter)
	}
	due := now >= g.seen.failover
	g.mu.Unlock()
	if !due {
		return cause
	}
	// If the stream does not answer either, it is not this node alone that is away.
	if _, _, err := h.streamOf(ctx, g); err != nil {
		return err
	}
	// Once more, at the last moment: some other edge may have done it while we waited.
	if _, err := h.inspect(ctx, g); err == nil || !silent(err) {
		return err // what is to be done now the next look does
	}
	g.mu.Lock()
	floor, made := g.seen.floor, g.seen.failing == 0
	g.seen.failing = 0 // if this fails, it waits again
	if !made {
		g.seen.remade(now)
	}
	g.mu.Unlock()
	if made {
		return nil // by another edge: NATS says half a second late that a consumer is away
	}
	// Nobody can answer for a consumer whose node is away, but the cluster forgets it. What
	// creates it comes behind on the same connection.
	// The request to create goes the same way, so that it comes second.
	if err := h.js.Conn().Publish("$JS.API.CONSUMER.DELETE."+g.subject.stream+"."+g.subject.consumer, nil); err != nil {
		return fmt.Errorf("delete consumer %s: %w", g.subject.consumer, err)
	}
	info, err := h.create(ctx, g, after(floor))
	if err != nil {
		return err
	}
	h.stats.failovers.Inc()
	h.log.Warn("the node of a group's consumer does not answer, and it is made again on another one",
		zap.Stringer("group", g.key), zap.Uint64("after", floor))
	return h.see(ctx, g, info, now, false)
}

// silent says whether an error means that a consumer is there and cannot answer.
func silent(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || apiCode(err) == errCodeConsumerOffline
}

// after is the start of a consumer that goes on behind a sequence.
func after(floor uint64) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: floor + 1}
}
