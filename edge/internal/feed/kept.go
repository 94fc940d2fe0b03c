package feed

import (
	"container/list"
	"math"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
	"unsafe"

	"canopy/shared/event"
)

// kept holds the blocks that were read lately, of all feeds of an edge, with limit bytes at
// most: sockets that come back one after the other share them, like those that come at once.
// The oldest go first.
//
// Any goroutine may call it. What is in a block belongs to its feed's replayer all the same.
type kept struct {
	limit int64

	mu    sync.Mutex
	bytes int64
	list  list.List                 // of *keptBlock, oldest first
	feeds map[*Feed][]*list.Element // those of a feed by log and place; no two overlap
}

type keptBlock struct {
	feed  *Feed
	block *block
	bytes int64
	read  time.Time
}

// search gives f's blocks, and the index of the first that begins behind c. mu is held.
func (k *kept) search(f *Feed, c event.Cursor) (blocks []*list.Element, behind int) {
	blocks = k.feeds[f]
	return blocks, sort.Search(len(blocks), func(i int) bool {
		b := blocks[i].Value.(*keptBlock).block
		return b.log > c.Log || b.log == c.Log && b.after > c.Sequence
	})
}

// find gives the block that goes on behind c, or nil.
func (k *kept) find(f *Feed, c event.Cursor) *block {
	k.mu.Lock()
	defer k.mu.Unlock()
	if blocks, i := k.search(f, c); i > 0 {
		if b := blocks[i-1].Value.(*keptBlock).block; b.log == c.Log && c.Sequence < b.through {
			return b
		}
	}
	return nil
}

// next is where the next block begins behind c, at which none does: only up to there has
// anything to be read.
func (k *kept) next(f *Feed, c event.Cursor) uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if blocks, i := k.search(f, c); i < len(blocks) {
		if b := blocks[i].Value.(*keptBlock).block; b.log == c.Log {
			return b.after
		}
	}
	return math.MaxUint64
}

// add keeps b, which was read now, unless it leads nowhere.
func (k *kept) add(f *Feed, b *block, now time.Time) {
	if b.through <= b.after {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.feeds == nil {
		k.feeds = map[*Feed][]*list.Element{}
	}
	bytes := b.size()
	blocks, i := k.search(f, event.Cursor{Log: b.log, Sequence: b.after})
	k.feeds[f] = slices.Insert(blocks, i, k.list.PushBack(&keptBlock{f, b, bytes, now}))
	k.grow(bytes)
}

// count notes how large b is now: it grows when its frames are compressed.
func (k *kept) count(f *Feed, b *block) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.feeds[f] {
		if kb := e.Value.(*keptBlock); kb.block == b {
			more := b.size() - kb.bytes
			kb.bytes += more
			k.grow(more)
			return
		}
	}
}

// grow makes room for bytes. mu is held.
func (k *kept) grow(bytes int64) {
	for k.bytes += bytes; k.bytes > k.limit; {
		k.drop(k.list.Front())
	}
}

// trim drops what was read before then.
func (k *kept) trim(then time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for e := k.list.Front(); e != nil && e.Value.(*keptBlock).read.Before(then); e = k.list.Front() {
		k.drop(e)
	}
}

// forget drops the blocks of a feed.
func (k *kept) forget(f *Feed) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.feeds[f]) > 0 {
		k.drop(k.feeds[f][0])
	}
}

// drop takes one block out. mu is held.
func (k *kept) drop(e *list.Element) {
	kb := k.list.Remove(e).(*keptBlock)
	k.bytes -= kb.bytes
	all := k.feeds[kb.feed]
	if len(all) == 1 {
		delete(k.feeds, kb.feed)
		return
	}
	i := slices.Index(all, e)
	k.feeds[kb.feed] = slices.Delete(all, i, i+1)
}

func (k *kept) size() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.bytes
}

// size is about what b needs in memory.
func (b *block) size() int64 {
	const each, perEvent = 256, int(unsafe.Sizeof(blockEvent{}))
	n := each + cap(b.frames) + cap(b.index)*perEvent
	for _, e := range b.index {
		n += len(e.labels.channel) + len(e.labels.device)
	}
	for _, frame := range b.packed {
		n += int(unsafe.Sizeof(frame)) + cap(frame)
	}
	return int64(n)
}

// clone copies the labels, which else keep all headers of their message in memory.
func (l labels) clone() labels {
	l.channel, l.device = strings.Clone(l.channel), strings.Clone(l.device)
	return l
}
