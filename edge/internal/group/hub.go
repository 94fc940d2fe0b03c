package group

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"canopy/edge/internal/procs"
	"canopy/edge/internal/ws"
	"canopy/shared/config"
	"canopy/shared/event"
)

const (
	// inboundMessages is the room of one reader's channel. A reader never waits for
	// anything, and what does not fit JetStream sends again.
	inboundMessages = 64 << 10

	// readAtOnce bounds what a reader takes from its channel before it hands it on.
	readAtOnce = 64

	// linger is how long a group without members is kept, and doubtFor how long at most if it
	// is not known whether something is lost.
	linger   = 30 * time.Second
	doubtFor = 10 * time.Minute

	openTimeout = 8 * time.Second

	// lookBackWithin is how old may be what is known of a stream when members come back, and
	// clockSkew how far its server's clock may be ahead.
	lookBackWithin = time.Second
	clockSkew      = time.Second

	// turnRounds is how often a worker serves a group before the others have their turn.
	turnRounds = 16

	// keepBuffer is the size up to which a worker keeps its buffer for writes, in bytes.
	keepBuffer = 1 << 20

	tidyEvery = time.Second

	// roomShare is the part of a room's bytes that one group may have.
	roomShare = 4

	// publicShare is the part of what members and public readers both need that the latter
	// may have, so that members always find room.
	publicShare = 2
)

// What Join returns, wrapped.
var (
	ErrUnavailable   = errors.New("group is not available")
	ErrTooManyGroups = errors.New("too many groups of this application")
	ErrTooManyPublic = errors.New("too many groups of public readers")
)

// Config is what a Hub needs to know.
type Config struct {
	Groups config.Groups
	Limits config.Limits
	// Bytes bounds the events that all groups of the edge hold until they are
	// acknowledged.
	Bytes int64
	// Held gives the bytes that wait for stalled sockets, and HeldLimit is where the
	// groups stop adding to them.
	Held      func() int64
	HeldLimit int64
	// Deflater compresses the events of members that take that; nil is off.
	Deflater *ws.Deflater
	// Workers is the number of goroutines that write to members; 0 means one a core.
	Workers int
}

func (c Config) limits(r *room) limits {
	return limits{
		window: c.Groups.MemberInFlight, group: c.Groups.InFlight, share: r.limit / roomShare, ackWait: c.Groups.AckWait,
		tries: c.Groups.MaxDeliveries,
	}
}

// Streams says where applications lie.
type Streams interface {
	// Shards is the number of streams, or an error as long as it is not known.
	Shards() (int, error)
	// Log identifies the stream of a shard, 0 if it is not known.
	Log(shard int) event.Log
}

// Hub holds the groups of one edge. Its methods may be called from any goroutine.
type Hub struct {
	config  Config
	nc      *nats.Conn // events and acknowledgements, so that they wait behind nothing
	js      jetstream.JetStream
	streams Streams
	log     *zap.Logger
	stats   *metrics
	room    *room
	start   time.Time
	queue   *queueOfGroups
	readers []chan *nats.Msg
	drains  drains
	quota   *quota
	losses  losses

	failures failures

	publicRoom  *room         // what public readers' groups may have of room
	slots       chan struct{} // requests about consumers that are under way
	publicSlots chan struct{} // of these, those about public readers' groups

	context context.Context // of Run
	cancel  context.CancelFunc
	opening sync.WaitGroup

	mu         sync.RWMutex
	groups     map[Key]*Group
	byDeliver  map[string]*Group
	byConsumer map[string]*Group // "<stream>.<consumer>"
	retentions map[int]retention // by shard

	clockMu sync.Mutex
	active  []*Group // what the clock visits

	reconnects uint64 // of nc, when the clock looked last
}

// New makes a Hub that takes events from nc and asks about consumers over requests.
func New(cfg Config, nc, requests *nats.Conn, streams Streams, log *zap.Logger, reg prometheus.Registerer) (*Hub, error) {
	js, err := jetstream.New(requests)
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	if cfg.Workers == 0 {
		cfg.Workers = procs.Workers()
	}
	h := &Hub{
		config: cfg, nc: nc, js: js, streams: streams, log: log, start: time.Now(),
		room: &room{limit: cfg.Bytes}, queue: newQueueOfGroups(), quota: newQuota(cfg.Limits),
		slots: make(chan struct{}, requestsAtOnce), publicSlots: make(chan struct{}, requestsAtOnce/publicShare),
		drains: drains{nc: nc}, losses: losses{of: map[string]map[uint64]loss{}},
		failures: failures{of: map[string]map[uint64]remembered{}},
		groups:   map[Key]*Group{}, byDeliver: map[string]*Group{}, byConsumer: map[string]*Group{}, retentions: map[int]retention{},
	}
	h.publicRoom = &room{limit: cfg.Bytes / publicShare, within: h.room}
	for range cfg.Workers {
		h.readers = append(h.readers, make(chan *nats.Msg, inboundMessages))
	}
	h.stats = newMetrics(reg, h)
	h.context, h.cancel = context.WithCancel(context.Background())
	return h, nil
}

// now is the time since the hub began.
func (h *Hub) now() time.Duration { return time.Since(h.start) }

// Run reads events and serves groups until ctx ends. Its sockets must be closed before.
func (h *Hub) Run(ctx context.Context) error {
	defer h.opening.Wait()
	defer h.cancel()
	deleted, err := h.nc.Subscribe(deletedAdvisory+"*.*", h.consumerDeleted)
	if err != nil {
		return fmt.Errorf("subscribe to advisories of consumers: %w", err)
	}
	defer func() { _ = deleted.Unsubscribe() }()
	ended, err := h.nc.Subscribe(endedAdvisory+"*.*", h.eventEnded)
	if err != nil {
		return fmt.Errorf("subscribe to advisories of events: %w", err)
	}
	defer func() { _ = ended.Unsubscribe() }()
	words, err := h.nc.Subscribe(wordPrefix+"*.*", h.wordCame)
	if err != nil {
		return fmt.Errorf("subscribe to words of other edges: %w", err)
	}
	defer func() { _ = words.Unsubscribe() }()
	if h.config.Groups.Replicas == 1 {
		created, err := h.nc.Subscribe(createdAdvisory+"*.*", h.consumerCreated)
		if err != nil {
			return fmt.Errorf("subscribe to advisories of consumers: %w", err)
		}
		defer func() { _ = created.Unsubscribe() }()
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, inbound := range h.readers {
		group.Go(func() error { h.read(ctx, inbound); return nil })
	}
	for range h.config.Workers {
		group.Go(func() error { h.queue.serve(); return nil })
	}
	group.Go(func() error { h.clock(ctx); return nil })
	group.Go(func() error { h.lookAgain(ctx); return nil })
	group.Go(func() error { <-ctx.Done(); h.queue.stop(); return nil })
	return group.Wait()
}

// read takes what the subscriptions of many groups bring. It never waits for anything else.
func (h *Hub) read(ctx context.Context, inbound <-chan *nats.Msg) {
	batch := make([]*nats.Msg, 0, readAtOnce)
	for {
		select {
		case <-ctx.Done():
			return
		case msg := <-inbound:
			batch = append(batch, msg)
		}
		// What lies there already comes along, so that a group is locked once for many
		// events, and its worker has many to write.
		for n := min(len(inbound), readAtOnce-1); n > 0; n-- {
			batch = append(batch, <-inbound)
		}
		h.receive(batch)
		clear(batch)
		batch = batch[:0]
	}
}

// receive gives messages to their groups.
func (h *Hub) receive(list []*nats.Msg) {
	for len(list) > 0 {
		to, n := list[0].Sub.Subject, 1
		for n < len(list) && list[n].Sub.Subject == to {
			n++
		}
		h.mu.RLock()
		g := h.byDeliver[to]
		h.mu.RUnlock()
		if g != nil {
			g.receive(list[:n])
		} else {
			for _, msg := range list[:n] {
				_ = h.nc.Publish(msg.Reply, nakText) // or JetStream finds out by itself
			}
		}
		list = list[n:]
	}
}

// Join makes socket a member of a group: what JetStream acknowledges after Join has
// returned comes to some member. The member must Leave in the end. A group that is there
// may always be joined; by is who makes it if it is not. The error wraps ErrUnavailable,
// ErrTooManyGroups or ErrTooManyPublic, or is a *TooManyNew or the context's.
func (h *Hub) Join(ctx context.Context, key Key, by Maker, socket Socket) (*Member, error) {
	g, err := h.find(ctx, key, by)
	if err != nil {
		return nil, err
	}
	defer g.unpin()
	g.mu.Lock()
	g.sockets++
	left, place := g.left, g.seen.place()
	g.left = 0
	g.mu.Unlock()
	if left > 0 {
		h.lookBack(ctx, g, h.start.Add(left), place)
	}
	return newMember(g, socket), nil
}

// find gives a group that is open, pinned. If somebody else is about to make it and has made
// too many, that says nothing about whoever waits for it: then by makes it.
func (h *Hub) find(ctx context.Context, key Key, by Maker) (*Group, error) {
	for {
		g, opener, err := h.pin(key, by)
		if err != nil {
			return nil, err
		}
		select {
		case <-g.opened:
			err = g.failed
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err == nil {
			return g, nil
		}
		g.unpin()
		if opener || !errors.As(err, new(*TooManyNew)) {
			return nil, err
		}
	}
}

// lookBack finds out whether the log may have forgotten events behind a place that came since
// the last member left, if so much was stored meanwhile. More than a limit of the application's own
// shows when the next event comes.
func (h *Hub) lookBack(ctx context.Context, g *Group, left time.Time, place uint64) {
	err := nats.ErrDisconnected
	if h.js.Conn().IsConnected() { // else whoever comes back need not wait
		err = h.learnLimits(ctx, g, lookBackWithin)
	}
	g.mu.Lock()
	if err != nil || g.seen.evicted || g.retention.first.After(left.Add(-clockSkew)) {
		g.seen.endanger(h.now(), place)
	}
	g.mu.Unlock()
}

// pin finds the group or begins to open it, which makes by its opener. It is not forgotten
// until unpin.
func (h *Hub) pin(key Key, by Maker) (g *Group, opener bool, err error) {
	shards, err := h.streams.Shards()
	if err = errors.Join(err, h.context.Err()); err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	g = h.groups[key]
	if opener = g == nil; opener {
		s := key.subjects(shards)
		g = newGroup(h, key, s, h.readers[len(h.groups)%len(h.readers)])
		h.groups[key], h.byDeliver[s.deliver], h.byConsumer[s.name()] = g, g, g
		h.opening.Add(1)
		go func() {
			defer h.opening.Done()
			h.open(g, by)
		}()
	}
	g.mu.Lock()
	g.pins++
	g.mu.Unlock()
	return g, opener, nil
}

func (g *Group) unpin() {
	g.mu.Lock()
	g.pins--
	g.idle = g.hub.now()
	g.mu.Unlock()
}

// open opens g for all that wait for it. It does not depend on the first of them.
func (h *Hub) open(g *Group, by Maker) {
	ctx, cancel := context.WithTimeout(h.context, openTimeout)
	defer cancel()
	err := h.ensure(ctx, g, by)
	if err != nil {
		if !isLimit(err) {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
			h.log.Warn("open group", zap.Stringer("group", g.key), zap.Error(err))
		}
		h.mu.Lock()
		h.remove(g)
		h.mu.Unlock()
	}
	g.failed = err
	close(g.opened)
}

// remove forgets g. mu is held.
func (h *Hub) remove(g *Group) {
	if h.groups[g.key] == g {
		delete(h.groups, g.key)
		delete(h.byDeliver, g.subject.deliver)
		delete(h.byConsumer, g.subject.name())
	}
}

// all lists the groups.
func (h *Hub) all() []*Group {
	h.mu.RLock()
	defer h.mu.RUnlock()
	list := make([]*Group, 0, len(h.groups))
	for _, g := range h.groups {
		list = append(list, g)
	}
	return list
}

// tidy forgets groups that had no member for a while.
func (h *Hub) tidy() {
	now := h.now()
	h.losses.tidy(now)
	h.failures.tidy(now)
	connected := h.nc.IsConnected()
	if n := h.nc.Stats().Reconnects; n != h.reconnects {
		h.reconnects = n
		h.Reconnected() // the client's call may come later
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, g := range h.groups {
		g.mu.Lock()
		if g.sockets == 0 && g.pins == 0 && !g.queued && !g.lingers(now-g.idle, connected) {
			if g.rotation.loseNotice() {
				g.schedule()
				continue
			}
			h.remove(g)
		}
		g.mu.Unlock()
	}
}

// clock lets time pass for the groups that wait for something.
func (h *Hub) clock(ctx context.Context) {
	ticker, tidy := time.NewTicker(tickEvery), time.NewTicker(tidyEvery)
	defer ticker.Stop()
	defer tidy.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tidy.C:
			h.tidy()
		case <-ticker.C:
			h.clockMu.Lock()
			list := h.active
			h.active = nil
			h.clockMu.Unlock()
			now, connected := h.now(), h.nc.IsConnected()
			for _, g := range list {
				if g.tick(now, connected) {
					h.activate(g)
				}
			}
			h.drains.check()
		}
	}
}

func (h *Hub) activate(g *Group) {
	h.clockMu.Lock()
	h.active = append(h.active, g)
	h.clockMu.Unlock()
}

// overHeld says whether too many bytes wait for stalled sockets.
func (h *Hub) overHeld() bool { return h.config.Held() > h.config.HeldLimit }

// Drain stops taking events, hands back what nobody was given, and waits until members
// have acknowledged what they have, or ctx ends.
func (h *Hub) Drain(ctx context.Context) {
	h.lookAtRisks(ctx)
	for _, g := range h.all() {
		g.mu.Lock()
		g.rotation.stop()
		g.schedule()
	}
	ticker := time.NewTicker(tickEvery)
	defer ticker.Stop()
	for h.sum().inFlight > 0 {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
