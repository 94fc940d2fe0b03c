package publish

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"canopy/shared/config"
)

// idleCheck is how often a lane looks whether NATS is back. Status changes wake it sooner.
const idleCheck = 200 * time.Millisecond

// largeShare is above what an application can hold without many seeing that it is purged.
const largeShare = 64 << 20

// Publisher owns the lanes. It bounds nothing by itself: the caller hands over no more than
// it may have unsettled at a time. Publish and Flush are for one goroutine; Forget and the
// Disconnected and Connected of the connection may come from any.
type Publisher struct {
	nc      *nats.Conn
	log     *zap.Logger
	metrics *metrics
	limit   *rate.Limiter

	inbox   string // acknowledgements come to <inbox>.<lane>.<attempt>
	process string // makes attempts' names unique among all processes
	lanes   []*lane
	beacons *beacons
	lost    *shardSet // whose streams may be gone; for Streams
	touched []int     // lanes with messages that Flush has not shown them yet
	pending []bool
}

// New makes a publisher with one lane for each shard's stream over nc, which must not
// buffer while it reconnects (nats.ReconnectBufSize(-1)): what is not sent stays here.
func New(nc *nats.Conn, cfg config.Ingest, log *zap.Logger, reg prometheus.Registerer) *Publisher {
	inbox, shards := nc.NewInbox(), cfg.Shards
	p := &Publisher{
		nc:      nc,
		log:     log,
		metrics: newMetrics(reg),
		limit:   rate.NewLimiter(1, 5),
		inbox:   inbox,
		process: inbox[strings.LastIndexByte(inbox, '.')+1:],
		lanes:   make([]*lane, shards),
		lost:    newShardSet(),
		pending: make([]bool, shards),
	}
	for i := range p.lanes {
		p.lanes[i] = newLane(&laneEvents{p, i}, max(quietApps/shards, 1), shareOf(cfg))
	}
	p.beacons = newBeacons(p)
	if share := shareOf(cfg); share > 0 {
		if share > largeShare {
			log.Warn("an application's share of a stream is large: whenever one holds all of it the stream stands still while the server looks through it; more shards make it smaller",
				zap.Int64("share_bytes", share), zap.Int("shards", shards))
		}
		reg.MustRegister(nearShare{p, cfg.Retention.Age})
	}
	return p
}

// Publish hands m over. It never blocks and does not send: Flush does. A message that NATS
// cannot carry is settled at once, in its place it would only be in others' way.
func (p *Publisher) Publish(m *Message) {
	m.prepare()
	if reason, no := refusedHere(m, p.nc.MaxPayload()); no {
		p.refuse(m, reason)
		m.Owner.Settled(m.Index, Refused)
		return
	}
	l := p.lanes[m.Shard]
	l.mu.Lock()
	l.queue.push(m)
	l.mu.Unlock()
	if !p.pending[m.Shard] {
		p.pending[m.Shard] = true
		p.touched = append(p.touched, m.Shard)
	}
}

// Flush sets the lanes going that got messages since the last time. Called after many
// messages it makes batches large; the last call must come after the last message.
func (p *Publisher) Flush() {
	for _, i := range p.touched {
		p.pending[i] = false
		p.lanes[i].wakeUp()
	}
	p.touched = p.touched[:0]
}

// Forget settles what owner has handed over as Dropped: at once what was not sent, the
// rest when it is acknowledged (then as Stored) or its attempt fails.
func (p *Publisher) Forget(owner Owner) {
	for _, l := range p.lanes {
		l.mu.Lock()
		l.forget(owner)
		l.mu.Unlock()
	}
}

// Run publishes until ctx ends. What is unsettled then stays so: end the context after the
// caller's drain. Its only error is that the connection has been closed.
func (p *Publisher) Run(ctx context.Context) error {
	sub, err := p.nc.Subscribe(p.inbox+".>", p.answered)
	if err != nil {
		return fmt.Errorf("subscribe to acknowledgements: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	// What can be waiting is bounded by what is unsettled.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return fmt.Errorf("subscribe to acknowledgements: %w", err)
	}

	js, err := jetstream.New(p.nc)
	if err != nil {
		return fmt.Errorf("use JetStream: %w", err)
	}
	auditor := auditor{p: p, js: js, counts: make(chan struct{}, countsAtOnce)}

	status := p.nc.StatusChanged(nats.CONNECTED, nats.RECONNECTING, nats.DISCONNECTED, nats.CLOSED)
	defer p.nc.RemoveStatusListener(status)
	ctx, cancel := context.WithCancel(ctx)
	var lanes sync.WaitGroup
	defer lanes.Wait()
	defer cancel()
	for i := range p.lanes {
		lanes.Go(func() { p.runLane(ctx, i) })
		if p.lanes[i].ledger.share > 0 {
			lanes.Go(func() { auditor.run(ctx, i) })
			lanes.Go(func() { auditor.runProofs(ctx, i) })
		}
	}
	lanes.Go(func() { p.beacons.run(ctx) })
	lanes.Go(func() { p.beacons.ask(ctx) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-status:
			if s == nats.CLOSED {
				return errors.New("publish: the connection to NATS was closed")
			}
			p.statusChanged(s)
		}
	}
}

// statusChanged lets no lane wait for answers that a lost connection takes with it.
func (p *Publisher) statusChanged(s nats.Status) {
	now := time.Now()
	for _, l := range p.lanes {
		l.mu.Lock()
		if s != nats.CONNECTED {
			l.fail(now, reasonDisconnected, nil)
		}
		l.notBefore = now
		l.mu.Unlock()
		l.wakeUp()
	}
}

// answered runs on the subscription's goroutine.
func (p *Publisher) answered(m *nats.Msg) {
	rest := m.Subject[len(p.inbox)+1:]
	i, attempt, ok := splitReply(rest)
	if !ok || i < 0 || i >= len(p.lanes) {
		return
	}
	id := strings.TrimPrefix(attempt, p.process+"-")
	a, ok := parseAnswer(m)
	if !ok {
		p.log.Warn("unreadable answer from JetStream", zap.Int("shard", i), zap.Int("bytes", len(m.Data)))
		return
	}
	l := p.lanes[i]
	l.mu.Lock()
	l.answered(time.Now(), id, a)
	l.mu.Unlock()
}

// runLane does what the lane says until ctx ends.
func (p *Publisher) runLane(ctx context.Context, i int) {
	l := p.lanes[i]
	s := sender{nc: p.nc, prefix: p.inbox + "." + strconv.Itoa(i) + "." + p.process + "-"}
	buf := make([]*Message, 0, chunk)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		wait := idleCheck
		connected := p.nc.IsConnected()
		if connected {
			l.mu.Lock()
			t := l.next(time.Now(), buf)
			l.mu.Unlock()
			if len(t.messages) > 0 || t.end || t.ping {
				p.send(l, &s, t)
				clear(t.messages)
				continue
			}
			wait = time.Hour
			if !t.until.IsZero() {
				wait = time.Until(t.until)
			}
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-l.wake:
		case <-timer.C:
		}
	}
}

// send sends what the lane said, outside its lock: the socket may be full.
func (p *Publisher) send(l *lane, s *sender, t todo) {
	err := s.send(t, p.nc.MaxPayload())
	if err == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.id != t.id || l.kind == free {
		return // given up meanwhile
	}
	var never *neverError
	if t.alone && errors.As(err, &never) {
		l.refuseFront(never.reason)
		return
	}
	l.fail(time.Now(), reasonSend, err)
}

func (p *Publisher) refuse(m *Message, reason string) {
	p.metrics.refused.WithLabelValues(reason).Inc()
	p.log.Warn("record skipped: NATS can never take it", zap.String("record", m.ID),
		zap.String("reason", reason), zap.Int("bytes", m.size()))
}

// laneEvents counts and logs what one lane does.
type laneEvents struct {
	p     *Publisher
	shard int
}

func (e *laneEvents) stored(n int)                      { e.p.metrics.published.Add(float64(n)) }
func (e *laneEvents) duplicate(n int)                   { e.p.metrics.duplicates.Add(float64(n)) }
func (e *laneEvents) refused(m *Message, reason string) { e.p.refuse(m, reason) }

func (e *laneEvents) lost() {
	e.p.beacons.unknown(e.shard)
	e.p.lost.add(e.shard)
}

func (e *laneEvents) restarted(reason string, err error) {
	e.p.metrics.restarts.WithLabelValues(reason).Inc()
	if e.p.limit.Allow() {
		e.p.log.Warn("publishing starts again from the first record that is not acknowledged",
			zap.Int("shard", e.shard), zap.String("reason", reason), zap.Error(err))
	}
}
