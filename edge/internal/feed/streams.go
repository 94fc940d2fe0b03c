package feed

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"canopy/shared/event"
	"canopy/shared/subject"
)

const (
	learnEvery   = 500 * time.Millisecond
	learnAtOnce  = 8
	lookAtStream = 250 * time.Millisecond
	suspectEvery = time.Second
)

// learn asks for the streams until all of them are known.
func (h *Hub) learn(ctx context.Context) {
	for ctx.Err() == nil {
		logs, err := h.readStreams(ctx)
		if ctx.Err() != nil {
			return
		}
		h.mu.Lock()
		first := h.failed
		h.failed = err
		if err == nil {
			h.logs = logs
			h.slots = make([]chan struct{}, len(logs))
			h.windows = make([]*windows, len(logs))
			for i := range h.slots {
				h.windows[i] = &windows{shard: i, shelf: h.shelf}
				h.slots[i] = make(chan struct{}, requestsPerStream)
			}
		}
		h.mu.Unlock()
		if err == nil {
			h.zap.Info("streams known", zap.Int("shards", len(logs)))
			return
		}
		if first == nil || first.Error() != err.Error() {
			h.zap.Warn("streams not known yet; ingest makes them", zap.Error(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(learnEvery):
		}
	}
}

func (h *Hub) readStreams(ctx context.Context) ([]event.Log, error) {
	state, err := h.history.state(ctx, 0, "")
	if err != nil {
		return nil, err
	}
	shards := state.shards
	logs := make([]event.Log, shards)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(learnAtOnce)
	for shard := range shards {
		group.Go(func() error {
			state, err := h.history.state(ctx, shard, "")
			if err == nil && state.shards != shards {
				err = fmt.Errorf("stream %s belongs to %d shards, stream %s to %d",
					subject.Stream(shard), state.shards, subject.Stream(0), shards)
			}
			logs[shard] = state.log
			return err
		})
	}
	return logs, group.Wait()
}

// Reconnected must be called when the feeds' connection to NATS stands again: whatever
// was published meanwhile is missing.
func (h *Hub) Reconnected() {
	h.mu.Lock()
	shards := len(h.logs)
	h.mu.Unlock()
	for shard := range shards {
		h.lookAgain(shard)
	}
}

// Dropped must be called when the NATS client has dropped messages of sub.
func (h *Hub) Dropped(sub *nats.Subscription) {
	h.mu.Lock()
	feeds := h.all()
	h.mu.Unlock()
	for _, f := range feeds {
		f.mu.Lock()
		mine := f.sub == sub
		f.mu.Unlock()
		if mine {
			h.stats.dropped.Inc()
			f.hold()
			f.goOn()
			return
		}
	}
}

// leaderElected takes the advisory of a stream's new leader, which comes before the
// first message that it republishes. Messages of the old leader may be lost or late.
func (h *Hub) leaderElected(msg *nats.Msg) {
	const prefix = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED."
	shard, ok := subject.ShardOfStream(msg.Subject[len(prefix):])
	h.mu.Lock()
	ours := ok && shard < len(h.logs)
	h.mu.Unlock()
	if ours {
		h.lookAgain(shard)
	}
}

// suspect looks at a shard's stream again, but not more often than every suspectEvery.
func (h *Hub) suspect(shard int) {
	now := h.now()
	h.mu.Lock()
	soon := now.Sub(h.suspected[shard]) < suspectEvery
	if !soon {
		h.suspected[shard] = now
	}
	h.mu.Unlock()
	if !soon {
		h.lookAgain(shard)
	}
}

// remade notes that the shard's stream is another one, and lets its other feeds know.
func (h *Hub) remade(shard int, log event.Log) {
	h.mu.Lock()
	h.logs[shard] = log
	h.mu.Unlock()
	h.suspect(shard)
}

// lookAgain holds the shard's feeds at once, and lets them read on when its stream
// answers. It does not block.
func (h *Hub) lookAgain(shard int) {
	h.mu.Lock()
	if h.context.Err() != nil {
		h.mu.Unlock()
		return
	}
	again, busy := h.moved[shard]
	if !busy {
		again = make(chan struct{}, 1)
		h.moved[shard] = again
		h.work.Add(1)
	}
	feeds := h.ofShard(shard)
	if busy { // while mu is held: so readAgain asks once more, and lets go what is held here
		select {
		case again <- struct{}{}:
		default:
		}
	}
	h.mu.Unlock()
	for _, f := range feeds {
		f.hold()
	}
	if busy {
		return
	}
	go func() {
		defer h.work.Done()
		h.readAgain(h.context, shard, again)
	}()
}

// readAgain asks for the shard's stream until it answers and nobody has asked again
// since, and then lets its feeds go on.
func (h *Hub) readAgain(ctx context.Context, shard int, again chan struct{}) {
	for ctx.Err() == nil {
		state, err := h.history.state(ctx, shard, "")
		if err != nil {
			h.zap.Debug("stream does not answer", zap.Int("shard", shard), zap.Error(err))
			select {
			case <-ctx.Done():
			case <-again:
			case <-time.After(lookAtStream):
			}
			continue
		}
		h.mu.Lock()
		select {
		case <-again:
			h.mu.Unlock()
			continue
		default:
		}
		delete(h.moved, shard)
		h.logs[shard] = state.log
		feeds := h.ofShard(shard)
		h.mu.Unlock()
		h.checkShards(state.shards)
		for _, f := range feeds {
			f.resume(state.log)
		}
		return
	}
}

// ofShard lists the shard's feeds. mu is held.
func (h *Hub) ofShard(shard int) []*Feed {
	var list []*Feed
	for _, f := range h.feeds {
		if f.shard == shard {
			list = append(list, f)
		}
	}
	return list
}
