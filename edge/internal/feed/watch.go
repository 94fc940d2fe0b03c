package feed

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// askLeaders is how often the leader of each stream that has feeds is asked whether it is
// still the same: messages, advisories and beacons do not come over a cut route.
const askLeaders = 2 * time.Second

// watch has every stream's leader say now and then that it leads. If it was not to be
// believed for a while, or is another one, the nodes of the cluster may have been apart
// and messages lost: then the stream's feeds are looked at soon.
func (h *Hub) watch(ctx context.Context) {
	ticker := time.NewTicker(askLeaders)
	defer ticker.Stop()
	var group errgroup.Group
	group.SetLimit(learnAtOnce)
	known := map[int]*watched{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		h.mu.Lock()
		feeds := map[int][]*Feed{}
		for _, f := range h.feeds {
			feeds[f.shard] = append(feeds[f.shard], f)
		}
		h.mu.Unlock()
		for shard := range known {
			if feeds[shard] == nil {
				delete(known, shard)
			}
		}
		for shard, list := range feeds {
			before := known[shard]
			if before == nil {
				before = &watched{}
				known[shard] = before
			}
			group.Go(func() error { h.watchOne(ctx, shard, before, list); return nil })
		}
		_ = group.Wait() // its functions return no errors
	}
}

// watched is what a stream's leader said last, and whether it failed to answer since.
type watched struct {
	leader
	failed bool
}

// watchOne asks one stream's leader.
func (h *Hub) watchOne(ctx context.Context, shard int, before *watched, feeds []*Feed) {
	now, err := h.history.lead(ctx, shard, time.Now().Add(-leadTime))
	if err != nil {
		before.failed = true
		return
	}
	if now.log != h.logOf(shard) {
		h.suspect(shard)
	}
	if before.failed || before.asked != (time.Time{}) && !now.same(before.leader) {
		for _, f := range feeds {
			f.mu.Lock()
			f.lookSoon()
			f.mu.Unlock()
		}
	}
	*before = watched{leader: now}
}
