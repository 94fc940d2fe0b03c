package publish

import (
	"maps"
	"sync"
)

// shardSet holds shards that somebody has to see to. Any goroutine may use it.
type shardSet struct {
	mu    sync.Mutex
	times map[int]uint64 // how often each was added
	added chan struct{}  // holds a token when add has been called
}

func newShardSet() *shardSet {
	return &shardSet{times: make(map[int]uint64), added: make(chan struct{}, 1)}
}

func (s *shardSet) add(shard int) {
	s.mu.Lock()
	s.times[shard]++
	s.mu.Unlock()
	select {
	case s.added <- struct{}{}:
	default:
	}
}

// all is the shards in the set, and how often each has been added since it was not in it.
func (s *shardSet) all() map[int]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.times)
}

// remove takes shard out, unless it has been added again: all told times of it.
func (s *shardSet) remove(shard int, times uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.times[shard] == times {
		delete(s.times, shard)
	}
}
