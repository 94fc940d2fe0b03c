package feed

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// shardsEvery is how often one stream is asked how many there are: nothing else tells, when
// applications move to streams that no feed listens to.
const shardsEvery = 5 * time.Second

// watchShards looks whether the streams are still as many as they were.
func (h *Hub) watchShards(ctx context.Context) {
	ticker := time.NewTicker(shardsEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		h.mu.Lock()
		known := len(h.logs) > 0
		h.mu.Unlock()
		if !known {
			continue
		}
		if state, err := h.history.state(ctx, 0, ""); err == nil {
			h.checkShards(state.shards)
		}
	}
}

// checkShards takes a stream's word on how many there are. If they are not as many as the
// Hub knows, it opens no sockets any more, and says so once.
func (h *Hub) checkShards(shards int) {
	h.mu.Lock()
	if shards == len(h.logs) || h.resharded {
		h.mu.Unlock()
		return
	}
	h.resharded = true
	err := fmt.Errorf("the streams are %d now, not %d: this edge has to start anew", shards, len(h.logs))
	h.failed = err
	h.mu.Unlock()
	h.zap.Error("applications have moved to other streams", zap.Error(err))
	if h.config.Resharded != nil {
		h.config.Resharded(err)
	}
}
