// Package feed brings the events of applications to sockets.
//
// The way of an event: NATS → Feed.receive → chain (order; holes are read from the
// stream) → ring (frames, encoded once) → track → bucket → sweep → Socket.Write.
//
// A socket has no queue and no goroutine. Its Reader is a position in the ring, and the
// sweep writes to it everything between that and the head in one slice, without a copy:
// one event at a time when events come slowly, up to 64 KiB when they come fast or the
// socket is slow. A socket that the kernel takes no more for is passed over until it
// drains; one that falls off the ring's tail is closed.
//
// A socket that begins in the past is served from the stream, together with others that
// do, until its place is within the ring; then it joins the live feed there.
package feed

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"canopy/edge/internal/procs"
	"canopy/edge/internal/ws"
	"canopy/shared/config"
	"canopy/shared/event"
	"canopy/shared/subject"
)

const (
	// pendingMessages bounds a subscription's own buffer in nats.go, beside
	// config.Buffers.NATSBytes; beyond it messages are dropped, noticed and read from the
	// stream.
	pendingMessages = 64 << 10

	// waitBytes bounds what waits for repairs in all feeds.
	waitBytes = 64 << 20

	// requestsPerStream is how many reads may be under way on one stream: more hold up
	// its writes.
	requestsPerStream = 2

	linger      = 30 * time.Second
	openTimeout = 8 * time.Second
	tidyEvery   = time.Second
)

// ErrUnavailable is wrapped by Attach's error when NATS or the application's stream does
// not answer, so that nobody can say where "now" is.
var ErrUnavailable = errors.New("event log unavailable")

// Config is what a Hub needs to know.
type Config struct {
	Buffers config.Buffers
	// Allowance bounds what is read from the log for one reader.
	Allowance Allowance
	// Workers is the number of goroutines that write to sockets; 0 means one a core.
	Workers int
	// Held gives the bytes that wait for stalled sockets, outside of the rings.
	Held func() int64
	// Press says that writers wait until these are less than three quarters of what they may
	// be: some of the sockets have to go, whoever wrote to them. nil has no effect.
	Press func()
	// Deflater compresses the frames of sockets that take that; nil is off.
	Deflater *ws.Deflater
	// Backstop is how often the leader is asked, for each feed, whether anything is
	// missing; 0 means every minute.
	Backstop time.Duration
	// Others are connections that are kept at servers which reach the streams, like the
	// Hub's own.
	Others []*nats.Conn
	// Resharded, which may be nil, is called once if the number of streams changes. Sockets
	// starve from then on: they must be closed, and the edge must start anew. It must not block.
	Resharded func(error)
}

// Hub holds the feeds of one edge. Its methods may be called from any goroutine.
type Hub struct {
	config  Config
	nc      *nats.Conn // events only, so that they wait behind nothing
	history *history
	sweep   *sweep
	budget  *budget
	room    *room
	stats   *metrics
	zap     *zap.Logger
	now     func() time.Time

	context context.Context // of Run
	cancel  context.CancelFunc
	work    sync.WaitGroup // goroutines that open and repair feeds
	over    chan struct{}  // has room for one: stalled sockets hold too much

	mu    sync.Mutex
	feeds map[string]*Feed
	logs  []event.Log     // by shard; empty until the streams are known
	slots []chan struct{} // by shard

	accounts *accounts  // of those for whom the log is read
	reads    *turns     // to read a block for sockets that resume
	asks     *turns     // to put a question to a stream for a socket
	windows  []*windows // by shard
	shelf    *shelf     // theirs
	kept     kept

	failed    error                 // why the streams are not known
	resharded bool                  // failed is for ever: the streams are another number
	moved     map[int]chan struct{} // shards that are being looked at again

	suspected map[int]time.Time // when a shard's stream was suspected last
}

// New makes a Hub that takes live events from feeds and asks questions over requests:
// two connections, so that neither waits for the other. The second must not buffer while
// it reconnects (nats.ReconnectBufSize(-1)): a question that is put late is answered late.
func New(cfg Config, feeds, requests *nats.Conn, log *zap.Logger, reg prometheus.Registerer) *Hub {
	if cfg.Workers == 0 {
		cfg.Workers = procs.Workers()
	}
	if cfg.Backstop == 0 {
		cfg.Backstop = backstop
	}
	h := &Hub{
		config: cfg, nc: feeds, history: &history{nc: requests},
		budget: newBudget(cfg.Buffers.TotalBytes), room: &room{limit: waitBytes},
		shelf: &shelf{limit: cfg.Buffers.RepairBytes}, kept: kept{limit: cfg.Buffers.ReplayBytes},
		zap: log, now: time.Now, over: make(chan struct{}, 1),
		feeds: map[string]*Feed{}, moved: map[int]chan struct{}{}, suspected: map[int]time.Time{},
		failed: errors.New("the streams are not known yet"), accounts: newAccounts(cfg.Allowance),
	}
	h.reads = newTurns(h.accounts, 1, replaysAtOnce)
	h.reads.rest = h.accounts.rest
	h.asks = newTurns(h.accounts, 1, math.MaxInt)
	h.stats = newMetrics(reg, h)
	h.history.requests = h.stats.requests
	h.sweep = newSweep(cfg.Workers, cfg.Held, cfg.Buffers.SocketBytes, h.stats)
	h.sweep.pressed = h.press
	h.context, h.cancel = context.WithCancel(context.Background())
	return h
}

// Run learns about the streams, sweeps, and keeps feeds in order until ctx ends. Sockets
// must be closed before.
func (h *Hub) Run(ctx context.Context) error {
	defer h.stop()
	advisory, err := h.nc.Subscribe("$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.*", h.leaderElected)
	if err != nil {
		return fmt.Errorf("subscribe to leader advisories: %w", err)
	}
	defer func() { _ = advisory.Unsubscribe() }()

	group, ctx := errgroup.WithContext(ctx)
	for range h.config.Workers {
		group.Go(func() error { h.sweep.run(); return nil })
	}
	group.Go(func() error { h.learn(ctx); return nil })
	group.Go(func() error { h.tidy(ctx); return nil })
	group.Go(func() error { h.guard(ctx); return nil })
	group.Go(func() error { h.refill(ctx); return nil })
	group.Go(func() error { h.witness(ctx); return nil })
	group.Go(func() error { h.watch(ctx); return nil })
	group.Go(func() error { h.watchShards(ctx); return nil })
	group.Go(func() error { h.reach(ctx); return nil })
	group.Go(func() error { <-ctx.Done(); h.sweep.stop(); return nil })
	return group.Wait()
}

func (h *Hub) stop() {
	h.cancel()
	h.mu.Lock()
	feeds := h.all()
	clear(h.feeds)
	h.mu.Unlock()
	for _, f := range feeds {
		f.close()
	}
	h.work.Wait()
}

// Ready says why no socket can be opened, or nil.
func (h *Hub) Ready() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failed
}

// Attach gives socket a place in application's feed, at since: what JetStream acknowledges
// after Attach has returned, and what it has stored from since on, will be written to it
// once r is released, or a gap event that says what may be missing. r must be detached in
// the end. The error wraps ErrUnavailable, is a *TooMuchRead or is the context's.
func (h *Hub) Attach(ctx context.Context, application string, filter Filter, since Since, socket Socket, r *Reader) error {
	f, err := h.pin(application)
	if err != nil {
		return err
	}
	defer f.unpin()
	select {
	case <-f.opened:
	case <-ctx.Done():
		return ctx.Err()
	}
	if f.failed != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, f.failed)
	}
	at, err := f.find(ctx, since)
	if err != nil {
		return err
	}
	at.owner = since.owner
	f.attach(r, socket, filter, at)
	return nil
}

// pin finds application's feed or begins to open one. It cannot be closed until unpin.
func (h *Hub) pin(application string) (*Feed, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := errors.Join(h.failed, h.context.Err()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	f := h.feeds[application]
	if f == nil {
		f = newFeed(h, application, subject.Shard(application, len(h.logs)))
		h.feeds[application] = f
		h.work.Add(1)
		go func() {
			defer h.work.Done()
			h.open(f)
		}()
	}
	f.tracksMu.Lock()
	f.pins++
	f.tracksMu.Unlock()
	return f, nil
}

func (f *Feed) unpin() {
	f.tracksMu.Lock()
	f.pins--
	f.idle = f.hub.now()
	f.tracksMu.Unlock()
}

// open opens f for all that wait for it. It does not depend on the first of them.
func (h *Hub) open(f *Feed) {
	ctx, cancel := context.WithTimeout(h.context, openTimeout)
	defer cancel()
	f.failed = f.open(ctx)
	if f.failed != nil {
		h.zap.Warn("open feed", zap.String("application", f.application), zap.Error(f.failed))
		h.mu.Lock()
		if h.feeds[f.application] == f {
			delete(h.feeds, f.application)
		}
		h.mu.Unlock()
		f.close()
	}
	close(f.opened)
}

func eventsSubject(f *Feed) string { return subject.Events(f.shard, f.application) }

// request runs one request to shard's stream, when few others are under way there, and
// again when there is a connection if there was none.
func (h *Hub) request(ctx context.Context, shard int, do func() error) error {
	for {
		err := h.requestOnce(ctx, shard, do)
		if !h.history.away(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(awayRetry):
		}
	}
}

// requestOnce leaves the stream room for what all sockets need: of questions for some of them
// it puts one at a time, in turn for each reader, who pays for it.
func (h *Hub) requestOnce(ctx context.Context, shard int, do func() error) error {
	by := askerOf(ctx)
	if by.account == nil {
		return h.requestNow(ctx, shard, do)
	}
	put := h.asks.do
	if by.ahead {
		put = h.asks.doAhead
	}
	return put(ctx, shard, by.account, func() error {
		h.accounts.charge(by.account, requestCost, h.now())
		return h.requestNow(ctx, shard, do)
	})
}

func (h *Hub) requestNow(ctx context.Context, shard int, do func() error) error {
	slot := h.slotsOf(shard)
	select {
	case slot <- struct{}{}:
		defer func() { <-slot }()
		return do()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Shards is the number of streams, or why it is not known.
func (h *Hub) Shards() (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.logs), h.failed
}

// Log identifies the stream of a shard, 0 if there is none or it is not known yet.
func (h *Hub) Log(shard int) event.Log {
	h.mu.Lock()
	defer h.mu.Unlock()
	if shard >= len(h.logs) {
		return 0
	}
	return h.logs[shard]
}

func (h *Hub) slotsOf(shard int) chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.slots[shard]
}

func (h *Hub) windowsOf(shard int) *windows {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.windows[shard]
}

func (h *Hub) logOf(shard int) event.Log {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.logs[shard]
}

func (h *Hub) size() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.feeds)
}

// all lists the feeds. mu is held.
func (h *Hub) all() []*Feed {
	list := make([]*Feed, 0, len(h.feeds))
	for _, f := range h.feeds {
		list = append(list, f)
	}
	return list
}

// tidy drops old events and idle feeds.
func (h *Hub) tidy(ctx context.Context) {
	ticker := time.NewTicker(tidyEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			h.mu.Lock()
			feeds := h.all()
			h.mu.Unlock()
			now := h.now()
			h.kept.trim(now.Add(-h.config.Buffers.FeedAge))
			h.accounts.forget(now)
			for _, f := range feeds {
				f.trim(now)
				f.trimPacked(now)
				h.closeIdle(f, now)
			}
		}
	}
}

// closeIdle closes f if it had no socket for a while.
func (h *Hub) closeIdle(f *Feed, now time.Time) {
	h.mu.Lock()
	f.tracksMu.Lock()
	idle := f.pins == 0 && f.sockets == 0 && now.Sub(f.idle) >= linger
	f.tracksMu.Unlock()
	if idle && h.feeds[f.application] == f {
		delete(h.feeds, f.application)
	}
	h.mu.Unlock()
	if idle {
		f.close()
	}
}

// room bounds the bytes of live messages that wait for repairs, in all feeds.
type room struct {
	limit int64
	bytes atomic.Int64
}

func (r *room) take(n int) bool {
	if r.bytes.Add(int64(n)) > r.limit {
		r.give(n)
		return false
	}
	return true
}

func (r *room) give(n int) { r.bytes.Add(-int64(n)) }

func (r *room) used() int64 { return r.bytes.Load() }
