package feed

import (
	"context"
	"errors"
	"math"
	"sort"
	"time"

	"canopy/edge/internal/ws"
	"canopy/shared/event"
)

// sparsePause is the longest pause behind a batch of events that lie far apart. It is as long
// as the stream needed to find them.
const sparsePause = 100 * time.Millisecond

// errOtherLog says that a stream is not the one any more that was asked for.
var errOtherLog = errors.New("the stream was made anew")

// block is what the stream holds of an application between two places, ready to be
// written to sockets. It does not change, but for the frames that are compressed when the
// first socket wants them: it belongs to one replayer.
type block struct {
	log            event.Log
	after, through uint64 // sequences: it holds every event between, the second included
	sound          uint64 // behind this sequence nothing was forgotten before it was read
	frames         []byte
	index          []blockEvent
	packed         [][]byte // compressed frames, by index; nil those that nobody has wanted
}

type blockEvent struct {
	sequence uint64
	end      int // of its frame in frames
	labels   labels
}

func (b *block) add(m message) {
	json := event.AppendCursor(nil, m.json, event.Cursor{Log: b.log, Sequence: m.sequence})
	b.frames = ws.AppendFrame(b.frames, ws.OpText, json)
	b.index = append(b.index, blockEvent{m.sequence, len(b.frames), m.labels.clone()})
}

// behind is the index of the first event behind sequence.
func (b *block) behind(sequence uint64) int {
	return sort.Search(len(b.index), func(i int) bool { return b.index[i].sequence > sequence })
}

// firstBehind is where events go on behind sequence.
func (b *block) firstBehind(sequence uint64) uint64 {
	if i := b.behind(sequence); i < len(b.index) {
		return b.index[i].sequence
	}
	return b.through + 1
}

// next gives the n frames of at most maxWrite bytes, or one, that come behind sequence
// and pass filter, and the sequence up to which that brings a socket. It joins filtered
// ones, and those that d compresses unless it is nil, in scratch and gives that back.
func (b *block) next(sequence uint64, filter Filter, d *ws.Deflater, scratch []byte) (frames, joined []byte, n int, last uint64) {
	joined = scratch[:0]
	i := b.behind(sequence)
	start := b.start(i)
	size := 0
	join := filter != (Filter{}) || d != nil
	for ; i < len(b.index); i++ {
		e := &b.index[i]
		if !filter.passes(e.labels) {
			continue
		}
		frame := b.frame(i, d)
		if n > 0 && size+len(frame) > maxWrite {
			return b.joinedOr(join, joined, start, size), joined, n, b.index[i-1].sequence
		}
		size += len(frame)
		n++
		if join {
			joined = append(joined, frame...)
		}
	}
	return b.joinedOr(join, joined, start, size), joined, n, b.through
}

func (b *block) joinedOr(join bool, joined []byte, start, size int) []byte {
	if join {
		return joined
	}
	return b.frames[start : start+size]
}

// frame is that of event i, compressed once for all by d unless that is nil.
func (b *block) frame(i int, d *ws.Deflater) []byte {
	frame := b.frames[b.start(i):b.index[i].end]
	if d == nil {
		return frame
	}
	if b.packed == nil {
		b.packed = make([][]byte, len(b.index))
	}
	if b.packed[i] == nil {
		b.packed[i] = d.AppendFrame(nil, ws.OpText, payload(frame), 0)
	}
	return b.packed[i]
}

func (b *block) start(i int) int {
	if i == 0 {
		return 0
	}
	return b.index[i-1].end
}

// readBlock reads from the stream what comes behind a place that the feed has passed, up to
// sequence end at most, and says what that cost, without the questions.
func (f *Feed) readBlock(ctx context.Context, after event.Cursor, end uint64) (b *block, cost int, err error) {
	head := f.end(after)
	if head.Log != after.Log {
		return nil, 0, errOtherLog
	}
	head.Sequence = min(head.Sequence, end)
	b = &block{log: after.Log, after: after.Sequence, through: head.Sequence, sound: after.Sequence}
	var at anchor
	begun := time.Now()
	for from := after.Sequence + 1; from <= head.Sequence && len(b.frames) < blockBytes && len(b.index) < blockEvents; {
		var list []message
		began := time.Now()
		err := f.request(ctx, func(h *history) (err error) {
			f.hub.stats.replayReads.Inc()
			var more int
			list, more, err = h.next(ctx, f.shard, f.application, event.Cursor{Log: after.Log, Sequence: from}, at)
			cost += more
			return err
		})
		if errors.Is(err, errNone) {
			b.through = head.Sequence
			break
		}
		if err != nil && len(b.index) > 0 {
			break // what has come is enough for now
		}
		if err != nil {
			return nil, cost, err
		}
		at = anchorAfter(list, event.Cursor{Log: after.Log, Sequence: from})
		from = b.take(list, head.Sequence)
		b.through = min(head.Sequence, from-1)
		if time.Since(begun) > readSpan && len(b.index) > 0 {
			break // others wait for their turns
		}
		if len(list) > 1 && !at.near {
			pause(ctx, min(time.Since(began), sparsePause))
		}
	}
	f.hub.stats.replayed.Add(float64(len(b.index)))
	forgotten, err := f.forgotten(ctx, after)
	b.sound = max(b.sound, forgotten)
	return b, cost, err
}

// end is how far a read behind a place has to go: to the newest event, if that is behind it.
func (f *Feed) end(after event.Cursor) event.Cursor {
	f.mu.Lock()
	defer f.mu.Unlock()
	if after.Sequence < f.chain.head {
		return event.Cursor{Log: f.log(), Sequence: f.chain.head}
	}
	return event.Cursor{Log: f.log(), Sequence: f.chain.known()}
}

// pause leaves a stream's writes, which wait for every batch that is sought, some time.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// take adds the events up to head, and gives the sequence to read on from.
func (b *block) take(list []message, head uint64) (from uint64) {
	for _, m := range list {
		if m.sequence > head {
			return head + 1
		}
		if m.fault == nil {
			b.add(m)
		}
	}
	return list[len(list)-1].sequence + 1
}

// forgotten gives the sequence behind which the stream has surely not forgotten any of
// the application's events yet: after's, or a later one. Asked after a read, that goes
// for what was read. The error may be errOtherLog.
func (f *Feed) forgotten(ctx context.Context, after event.Cursor) (uint64, error) {
	had := f.newest()
	// Mostly the stream has lost nothing of anybody, and then one answer is good for all
	// the feeds that read it.
	by, err := f.hub.history.lead(ctx, f.shard, time.Now())
	switch {
	case err != nil:
		return 0, err
	case by.log != after.Log:
		return 0, errOtherLog
	case by.log == had.Log && by.last < had.Sequence:
		return 0, errBehind
	case by.complete(after.Sequence):
		return after.Sequence, nil
	}
	s, err := f.state(ctx)
	if err != nil {
		return 0, err
	}
	if s.log != after.Log {
		return 0, errOtherLog
	}
	if s.keeps(after.Sequence) {
		return after.Sequence, nil
	}
	oldest, err := f.oldest(ctx)
	if errors.Is(err, errNone) {
		return math.MaxUint64, nil
	}
	return max(after.Sequence, oldest-min(1, oldest)), err
}
