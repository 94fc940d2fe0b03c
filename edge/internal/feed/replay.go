package feed

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"canopy/edge/internal/ws"
	"canopy/shared/event"
)

const (
	// replaysAtOnce is how many feeds of an edge read from their streams for sockets that
	// resume. The others wait for their turn; so one block for each is in memory, beside
	// those that are kept.
	replaysAtOnce = 16

	// A block ends with the event that reaches one of these.
	blockEvents = 256
	blockBytes  = 256 << 10

	// shareSpan is how far behind a socket's place, in sequences, another one's may be
	// for both to be served by the same read.
	shareSpan = 4096

	// catchUp is how long a socket waits whose place the feed has not reached yet.
	catchUp = 50 * time.Millisecond
)

// replays are a feed's sockets that read from the stream what the ring does not hold, and
// join the live feed where the two meet. One goroutine serves them while there are any:
// it reads a block of events for the socket that has waited longest and writes it to all
// that stand within it, so that sockets which come back together share their reads. The
// block is kept for those that come later. One that stalls is left out until it drains.
//
// Any goroutine may call it. Its lock comes last.
type replays struct {
	mu      sync.Mutex
	all     map[*Reader]struct{}
	ready   []*Reader // those that can take events, oldest first
	running bool
}

func (p *replays) add(r *Reader) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		p.all = map[*Reader]struct{}{}
	}
	p.all[r] = struct{}{}
}

func (p *replays) remove(r *Reader) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, r)
}

// push queues r, and says whether the goroutine must be started.
func (p *replays) push(r *Reader) (start bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready = append(p.ready, r)
	start = !p.running
	p.running = true
	return start
}

// take gives all that are ready.
func (p *replays) take() []*Reader {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.ready
	p.ready = nil
	return list
}

// replaying is the number of sockets that get events from the stream.
func (h *Hub) replaying() (n int) {
	h.mu.Lock()
	feeds := h.all()
	h.mu.Unlock()
	for _, f := range feeds {
		f.replays.mu.Lock()
		n += len(f.replays.all)
		f.replays.mu.Unlock()
	}
	return n
}

// replay has r served from the stream. It does not block.
func (f *Feed) replay(r *Reader) {
	if !f.replays.push(r) {
		return
	}
	f.hub.work.Add(1)
	go func() {
		defer f.hub.work.Done()
		p := replayer{feed: f}
		p.run(f.hub.context)
	}()
}

// replayLater does so after the feed has had time to catch up.
func (f *Feed) replayLater(r *Reader) {
	time.AfterFunc(catchUp, func() {
		if f.hub.context.Err() == nil {
			f.replay(r)
		}
	})
}

// replayer is what the goroutine that serves a feed's replays has for itself.
type replayer struct {
	feed    *Feed
	waiting []*Reader // claimed by nobody, in the order in which they came
	scratch []byte

	word   streamWord // of the leader
	newest lastWord
	round  time.Time // when those that enter now were taken from the queue
	failed error     // a question about them
}

func (p *replayer) run(ctx context.Context) {
	wait := repairBackoff
	for {
		p.round, p.failed = p.feed.hub.now(), nil
		for _, r := range p.feed.replays.take() {
			if p.enter(ctx, r) {
				p.waiting = append(p.waiting, r)
			}
		}
		if len(p.waiting) == 0 {
			if p.feed.replays.ended() {
				return
			}
			continue
		}
		err := p.step(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			wait = repairBackoff
			continue
		}
		p.feed.hub.stats.repairErrors.Inc()
		p.feed.hub.zap.Warn("replay will be tried again", zap.String("application", p.feed.application),
			zap.Duration("after", wait), zap.Error(err))
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait/2 + rand.N(wait/2)):
		}
		wait = min(2*wait, repairMaxBackoff)
	}
}

// ended says whether the goroutine that asks may end: nobody is ready.
func (p *replays) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = len(p.ready) > 0
	return !p.running
}

// step takes one block and writes it to whoever stands within it.
func (p *replayer) step(ctx context.Context) error {
	f := p.feed
	b := f.hub.kept.find(f, p.waiting[0].Cursor())
	if b == nil {
		release, err := f.hub.startReplay(ctx, f.shard)
		if err != nil {
			return err
		}
		defer release()
		b, err = p.read(ctx, p.earliest())
		if errors.Is(err, errOtherLog) {
			f.hub.suspect(f.shard)
			for _, r := range p.waiting {
				f.replay(r) // it has to enter again
			}
			p.waiting = nil
		}
		if err != nil {
			return err
		}
	}
	p.serveAll(ctx, b)
	f.hub.kept.count(f, b)
	return nil
}

// read gives what comes behind a place, and keeps it for others.
func (p *replayer) read(ctx context.Context, after event.Cursor) (*block, error) {
	f, k := p.feed, &p.feed.hub.kept
	if b := k.find(f, after); b != nil {
		return b, nil
	}
	end := k.next(f, after)
	b, err := f.readBlock(ctx, after, end)
	if err == nil && b.sound > b.after && len(b.index) == 0 && end < math.MaxUint64 {
		b, err = f.readBlock(ctx, after, math.MaxUint64) // a gap event names the event behind it
	}
	if err != nil {
		return nil, err
	}
	if b.sound <= b.after { // else only a read from their own places says what others miss
		k.add(f, b, f.hub.now())
	}
	return b, nil
}

// earliest is the place of the socket that has waited longest, or one not far before it
// where another stands.
func (p *replayer) earliest() event.Cursor {
	first := p.waiting[0].Cursor()
	after := first
	for _, r := range p.waiting {
		if c := r.Cursor(); c.Log == first.Log && c.Sequence < after.Sequence && c.Sequence+shareSpan >= first.Sequence {
			after = c
		}
	}
	return after
}

// serveAll writes b to all that stand within it.
func (p *replayer) serveAll(ctx context.Context, b *block) {
	list := p.waiting
	p.waiting = nil
	for i, r := range list {
		c := r.Cursor()
		switch {
		case c.Log != b.log || c.Sequence < b.after || c.Sequence >= b.through:
			p.waiting = append(p.waiting, r)
		case p.serve(ctx, r, b):
			p.feed.replay(r) // behind those that wait already
		}
		list[i] = nil
	}
}

// serve writes b to r. It says whether r wants more; one that has stalled or gone does not.
func (p *replayer) serve(ctx context.Context, r *Reader, b *block) bool {
	if !r.claimReplay() {
		return false
	}
	defer func() { p.scratch = p.scratch[:0] }()
	if at := r.Cursor(); at.Sequence < b.sound {
		before := event.Cursor{Log: b.log, Sequence: b.firstBehind(at.Sequence)}
		p.feed.writeGap(r, event.Gap{Reason: event.GapRetention, After: at, Before: before})
	}
	for {
		if !p.feed.hub.awaitRoom(ctx) {
			r.unclaim()
			return false
		}
		if r.owed.Load() != 0 && r.stall() {
			r.unclaim()
			return false
		}
		var frames []byte
		var n int
		var last uint64
		frames, p.scratch, n, last = b.next(r.seq.Load(), r.track.filter, r.track.deflater(), p.scratch)
		if n > 0 {
			p.feed.write(r, frames, n)
		}
		r.place(event.Cursor{Log: b.log, Sequence: last})
		if last >= b.through {
			return r.unclaim()
		}
	}
}

// write hands frames of n events to r, which is claimed.
func (f *Feed) write(r *Reader, frames []byte, n int) {
	r.owed.Add(int64(len(frames)))
	_ = r.socket.Write(frames) // an error means that it is gone, and it is told besides
	f.hub.stats.delivered(1, n, len(frames), 0, time.Time{})
}

// writeGap tells r, which is claimed, that events may be missing.
func (f *Feed) writeGap(r *Reader, g event.Gap) {
	g.Application, g.At = f.application, f.hub.now()
	c := g.Before
	c.Sequence -= min(1, c.Sequence)
	f.hub.stats.gaps.WithLabelValues(g.Reason).Inc()
	json := event.AppendCursor(nil, g.JSON(), c)
	f.write(r, ws.AppendFrame(nil, ws.OpText, json), 1)
	r.place(c)
}

// goLive puts r, which is claimed, into the live feed if its place is within the ring. It
// says whether it did, or r is gone; then the claim is given back.
func (f *Feed) goLive(r *Reader) bool {
	f.mu.Lock()
	if r.Cursor().Log == f.log() {
		f.tellRemade(f.chain.head + 1) // else it would stand before what was told to others
	}
	pos, ok := f.locate(r.track, r.Cursor())
	if !ok {
		f.mu.Unlock()
		return false
	}
	r.track.attach(r, pos)
	if f.leaveReplay(r) {
		r.bucket.remove(r)
	}
	f.mu.Unlock()
	if r.unclaim() {
		r.bucket.resume(r)
	}
	return true
}

// leaveReplay ends r's replay and says whether it was detached before that: Detach then did
// not know the bucket.
func (f *Feed) leaveReplay(r *Reader) bool {
	f.replays.remove(r)
	for {
		s := r.state.Load()
		if r.state.CompareAndSwap(s, s&^replaying) {
			return s&detached != 0
		}
	}
}

// startReplay waits for the right to read a block: one at a time of a stream, so that
// replays leave room for repairs, and replaysAtOnce in all.
func (h *Hub) startReplay(ctx context.Context, shard int) (release func(), err error) {
	h.mu.Lock()
	own := h.replaySlots[shard]
	h.mu.Unlock()
	for _, slot := range []chan struct{}{own, h.replaySlot} {
		select {
		case slot <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return func() { <-h.replaySlot; <-own }, nil
}

// awaitRoom waits until stalled sockets hold little enough for another write. It is false
// if ctx ends before.
func (h *Hub) awaitRoom(ctx context.Context) bool {
	for h.config.Held() > h.config.Buffers.SocketBytes {
		h.press()
		select {
		case <-ctx.Done():
			return false
		case <-time.After(lookAtHeld):
		}
	}
	return true
}
