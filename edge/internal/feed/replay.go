package feed

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"go.uber.org/zap"

	"canopy/edge/internal/ws"
	"canopy/shared/event"
)

const (
	// replaysAtOnce is how many feeds of an edge read from their streams for sockets that
	// resume, one of each stream. The others wait for their turn; so one block for each is in
	// memory, beside those that are kept.
	replaysAtOnce = 16

	// A block ends with the event that reaches one of these.
	blockEvents = 256
	blockBytes  = 256 << 10

	// readTimeout bounds how long a block holds its stream's turn: for one slow batch and what is
	// asked before and behind it. After readSpan it ends with what has come.
	readTimeout = batchTimeout + 3*requestTimeout
	readSpan    = 2 * requestTimeout

	// shareSpan is how far behind a socket's place, in sequences, another one's may be
	// for both to be served by the same read.
	shareSpan = 4096

	// catchUp is how long a socket waits whose place the feed has not reached yet.
	catchUp = 50 * time.Millisecond
)

// replayer is what the goroutine that serves a feed's replays has for itself.
type replayer struct {
	feed    *Feed
	waiting []*replay // claimed by nobody, in the order in which they came
	turn    *turn     // to read a block, which the goroutine has or waits for; or nil
	aside   bool      // it has just read one
	scratch []byte

	paid    int                   // what the block cost that is served, if it was read for that
	payers  map[*account]struct{} // who paid, in equal parts
	written int                   // events of it

	word   streamWord // of the leader
	newest lastWord
	round  time.Time // when those that enter now were taken from the queue
	failed error     // a question about them
}

func (p *replayer) run(ctx context.Context) {
	defer p.endTurn()
	wait := repairBackoff
	for {
		p.enterAll(ctx)
		if len(p.waiting) == 0 {
			p.endTurn()
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

// enterAll takes those that are ready among those that wait for a block.
func (p *replayer) enterAll(ctx context.Context) {
	f := p.feed
	p.round, p.failed = f.hub.now(), nil
	for _, x := range f.replays.take() {
		if !p.enter(aheadFor(ctx, x.account), x) { // all that enter wait for it
			continue
		}
		x.cold = f.hub.kept.find(f, x.reader.Cursor()) == nil
		p.waiting = append(p.waiting, x)
		if x.cold && p.turn != nil {
			f.hub.reads.join(p.turn, x.account)
		}
	}
}

// sift leaves those out that are gone, and those that have to wait for their accounts.
func (p *replayer) sift() {
	now := p.feed.hub.now()
	list := p.waiting
	p.waiting = list[:0]
	for _, x := range list {
		switch {
		case x.reader.state.Load()&detached != 0:
		case x.account.isOver(now):
			p.feed.hub.accounts.park(x)
		default:
			p.waiting = append(p.waiting, x)
		}
	}
	clear(list[len(p.waiting):])
}

// step takes one block, if there is one yet, and writes it to whoever stands within it.
func (p *replayer) step(ctx context.Context) error {
	f := p.feed
	p.paid, p.written = 0, 0
	clear(p.payers)
	b, err := p.nextBlock(ctx)
	if errors.Is(err, errOtherLog) {
		f.hub.suspect(f.shard)
		for _, x := range p.waiting {
			f.replay(x.reader) // it has to enter again
		}
		p.waiting = nil
	}
	if err != nil || b == nil {
		return err
	}
	p.serveAll(ctx, b)
	if p.written == 0 {
		p.pay((vainFactor - 1) * p.paid)
	}
	f.hub.kept.count(f, b)
	return nil
}

// nextBlock gives a block from the stream or one that is in memory, in turn if there are both,
// so that those who wait for the one never wait for those who have the other. It gives none if
// others have come meanwhile, or nobody is left for whom it may be read.
func (p *replayer) nextBlock(ctx context.Context) (*block, error) {
	p.askTurn()
	if p.turn != nil && !p.aside {
		select {
		case who := <-p.turn.granted:
			return p.readFor(ctx, who)
		default:
		}
	}
	p.aside = false
	if b := p.nextKept(); b != nil || p.turn == nil {
		return b, nil
	}
	select {
	case who := <-p.turn.granted:
		return p.readFor(ctx, who)
	case <-p.feed.replays.came:
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// nextKept gives a block that is in memory, of the reader who had his turn longest ago among
// those for whom there is one, or nil.
func (p *replayer) nextKept() *block {
	f := p.feed
	for {
		var next *replay
		for _, x := range p.waiting {
			if !x.cold && (next == nil || x.account.served.Load() < next.account.served.Load()) {
				next = x
			}
		}
		if next == nil {
			return nil
		}
		if next.reader.state.Load()&detached != 0 || next.account.isOver(f.hub.now()) {
			p.sift()
			continue
		}
		if b := f.hub.kept.find(f, next.reader.Cursor()); b != nil {
			f.hub.accounts.serve(next.account)
			return b
		}
		next.cold = true // the block had to make room
		if p.turn != nil {
			f.hub.reads.join(p.turn, next.account)
		}
	}
}

// askTurn has the goroutine wait for the right to read, if there is anybody for whom nothing is
// in memory.
func (p *replayer) askTurn() {
	cold := func(x *replay) bool { return x.cold }
	if p.turn != nil || !slices.ContainsFunc(p.waiting, cold) {
		return
	}
	p.sift()
	var who []*account
	for _, x := range p.waiting {
		if x.cold {
			who = append(who, x.account)
		}
	}
	if len(who) > 0 {
		p.turn = p.feed.hub.reads.ask(p.feed.shard, who...)
	}
}

// readFor reads a block in the turn that who has, and ends that: nobody else has the stream's
// meanwhile, so its questions go ahead of his others, and it does not last for ever.
func (p *replayer) readFor(ctx context.Context, who *account) (*block, error) {
	defer p.endTurn()
	p.aside = true
	p.sift()
	var next *replay
	for _, x := range p.waiting {
		if x.cold && (next == nil || x.account == who && next.account != who) {
			next = x
		}
	}
	if next == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return p.read(aheadFor(ctx, next.account), p.earliest(next))
}

// endTurn gives up the goroutine's turn, if there is one.
func (p *replayer) endTurn() {
	if p.turn != nil {
		p.feed.hub.reads.end(p.turn)
		p.turn = nil
	}
}

// read gives what comes behind a place, and keeps it for others.
func (p *replayer) read(ctx context.Context, after event.Cursor) (*block, error) {
	f, k := p.feed, &p.feed.hub.kept
	if b := k.find(f, after); b != nil {
		return b, nil
	}
	end := k.next(f, after)
	b, cost, err := f.readBlock(ctx, after, end)
	p.charge(ctx, after, b, cost)
	if err == nil && b.sound > b.after && len(b.index) == 0 && end < math.MaxUint64 {
		b, cost, err = f.readBlock(ctx, after, math.MaxUint64) // a gap event names the event behind it
		p.charge(ctx, after, b, cost)
	}
	if err != nil {
		return nil, err
	}
	if b.sound <= b.after { // else only a read from their own places says what others miss
		k.add(f, b, f.hub.now())
	}
	return b, nil
}

// charge has the readers pay for a read, in equal parts, who have sockets within what it
// brought; the one for whom it was made, if it brought nothing or they are gone.
func (p *replayer) charge(ctx context.Context, after event.Cursor, b *block, cost int) {
	if p.payers == nil {
		p.payers = map[*account]struct{}{}
	}
	clear(p.payers)
	for _, x := range p.waiting {
		c := x.reader.Cursor()
		if b != nil && c.Log == after.Log && c.Sequence >= after.Sequence && c.Sequence < b.through {
			p.payers[x.account] = struct{}{}
		}
	}
	if len(p.payers) == 0 {
		p.payers[accountOf(ctx)] = struct{}{}
	}
	p.paid += cost
	p.pay(cost)
}

func (p *replayer) pay(cost int) {
	for a := range p.payers {
		p.feed.hub.accounts.charge(a, cost/len(p.payers), p.feed.hub.now())
	}
}

// earliest is the place of x, or one not far before it where another stands.
func (p *replayer) earliest(x *replay) event.Cursor {
	first := x.reader.Cursor()
	after := first
	for _, x := range p.waiting {
		if c := x.reader.Cursor(); c.Log == first.Log && c.Sequence < after.Sequence && first.Sequence-c.Sequence <= shareSpan {
			after = c
		}
	}
	return after
}

// serveAll writes b to all that stand within it.
func (p *replayer) serveAll(ctx context.Context, b *block) {
	list := p.waiting
	p.waiting = list[:0]
	for _, x := range list {
		c := x.reader.Cursor()
		switch {
		case c.Log != b.log || c.Sequence < b.after || c.Sequence >= b.through:
			p.waiting = append(p.waiting, x)
		case p.serve(ctx, x, b):
			p.feed.replay(x.reader) // behind those that wait already
		}
	}
	clear(list[len(p.waiting):])
}

// serve writes b to x's socket. It says whether that wants more; one that has stalled or gone
// does not.
func (p *replayer) serve(ctx context.Context, x *replay, b *block) bool {
	r := x.reader
	if !r.claimReplay() {
		return false
	}
	defer func() { p.scratch = p.scratch[:0] }()
	at := r.Cursor()
	if at.Sequence < b.sound {
		before := event.Cursor{Log: b.log, Sequence: b.firstBehind(at.Sequence)}
		p.feed.writeGap(r, event.Gap{Reason: event.GapRetention, After: at, Before: before})
		at = r.Cursor()
	}
	written := 0
	defer func() {
		walked := b.behind(r.seq.Load()) - b.behind(at.Sequence)
		p.feed.hub.accounts.charge(x.account, passCost(walked, written), p.feed.hub.now())
		p.written += written
	}()
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
			written += n
		}
		r.place(event.Cursor{Log: b.log, Sequence: last})
		if last >= b.through {
			return r.unclaim()
		}
	}
}

// passCost is what it costs to walk over events of a block, of which some are written: those
// cost nothing, since whoever asks for them has to take them.
func passCost(walked, written int) int {
	if written == 0 {
		return blockCost
	}
	return (walked - written) / skipsPerGrain
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
