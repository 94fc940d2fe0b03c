package session

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/authz"
	"canopy/edge/internal/procs"
	"canopy/edge/internal/ws"
	"canopy/shared/config"
)

const (
	// closeSeconds is how long a client may take to answer a close frame.
	closeSeconds = 5

	drainStep = 10 * time.Millisecond

	// wheelStep is how late the wheel may be after the engine's clock.
	wheelStep = 50 * time.Millisecond
)

// Authenticator verifies the token that a client sends to stay signed in.
type Authenticator interface {
	Refresh(ctx context.Context, p authn.Principal, token string) (authn.Principal, error)
}

// Authorizer says who may still read what, and when to ask again.
type Authorizer interface {
	// StillMayRead reports as what p may read an application, and when what that goes by
	// was asked. p had access when that was asked at known, zero if it never was. An error
	// says that nobody can tell for longer than that counts.
	StillMayRead(ctx context.Context, p authn.Principal, application string, known time.Time) (as authz.Access, asked time.Time, err error)
	Changed() <-chan struct{}
}

// Registry holds all open sessions of an edge. Its methods may be called from any
// goroutine.
type Registry struct {
	engine *ws.Engine
	authn  Authenticator
	authz  Authorizer
	ping   config.Ping
	log    *zap.Logger
	stats  *metrics
	wheel  wheel

	accesses accesses
	verdicts *verdicts

	refreshes *refreshes
	unreads   unreads
	list      chan chan []*Session // Run gives all sessions, since it alone moves the wheel
}

// NewRegistry makes an empty registry.
func NewRegistry(engine *ws.Engine, n Authenticator, z Authorizer, ping config.Ping, log *zap.Logger, reg prometheus.Registerer) *Registry {
	r := &Registry{
		engine: engine, authn: n, authz: z, ping: ping, log: log,
		verdicts:  newVerdicts(),
		refreshes: newRefreshes(),
		list:      make(chan chan []*Session),
	}
	r.stats = newMetrics(reg, r)
	return r
}

// New makes a session of p, who may read the application. Nothing happens on it before Add.
func (r *Registry) New(application string, p authn.Principal) *Session {
	s := &Session{Application: application, registry: r}
	s.principal.Store(&p)
	return s
}

// Add takes s in, unless limit sessions are in already. s has its place in a feed and is
// not adopted by the engine yet: from here on it is found when access is withdrawn and by
// Drain, and it is removed when the engine reports its end, or by Abandon. Its access was
// asked for at known.
func (r *Registry) Add(s *Session, limit int, known time.Time) bool {
	now := r.engine.Now()
	at := now + uint32(r.ping.Interval/time.Second)
	if p := s.principal.Load(); !p.Expires.IsZero() {
		at = now + 1
	}
	if !r.wheel.add(s, at, limit) {
		return false
	}
	r.accesses.join(s, *s.principal.Load(), known)
	return true
}

func (r *Registry) remove(s *Session) {
	r.accesses.leave(s)
	r.refreshes.drop(s)
	r.wheel.remove(s)
}

// Len is the number of sessions.
func (r *Registry) Len() int { return r.wheel.len() }

// Run turns the wheel, verifies refreshed tokens, and asks again about every principal and
// application with open sessions when access may have changed, until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for range refreshWorkers {
		group.Go(func() error { r.verify(ctx); return nil })
	}
	group.Go(func() error { r.turn(ctx); return nil })
	group.Go(func() error { r.watch(ctx, r.end); return nil })
	return group.Wait()
}

func (r *Registry) turn(ctx context.Context) {
	ticker := time.NewTicker(wheelStep)
	defer ticker.Stop()
	turned := r.engine.Now()
	clock := clockWatch{started: time.Now()}
	for {
		select {
		case <-ctx.Done():
			return
		case answer := <-r.list:
			answer <- r.wheel.all()
		case <-ticker.C:
			if clock.set(time.Now(), time.Since(clock.started)) {
				r.reconsider()
			}
			for now := r.engine.Now(); turned < now; {
				turned++
				r.second(turned)
			}
		}
	}
}

// reconsider has every session looked at in the next second. Only turn calls it.
func (r *Registry) reconsider() {
	for _, s := range r.wheel.all() {
		r.wheel.hasten(s, 1)
	}
}

// second looks at every session that is due at second now, on all cores, since that may
// be ten thousand sockets whose tokens end together.
func (r *Registry) second(now uint32) {
	wall := time.Now()
	if !r.some(now, wall) {
		return
	}
	var rest sync.WaitGroup
	for range procs.Workers() {
		rest.Go(func() {
			for r.some(now, wall) {
			}
		})
	}
	rest.Wait()
}

// some looks at some sessions that are due at second now, and is false if there are none.
func (r *Registry) some(now uint32, wall time.Time) bool {
	var due [256]*Session
	n := r.wheel.take(now, due[:])
	for _, s := range due[:n] {
		r.wheel.put(s, s.due(now, wall))
	}
	return n > 0
}

// all lists the sessions; when ctx ends it lists none.
func (r *Registry) all(ctx context.Context) []*Session {
	answer := make(chan []*Session, 1)
	select {
	case r.list <- answer:
		return <-answer
	case <-ctx.Done():
		return nil
	}
}

// Drain closes all sessions with Drained, spread over window so that their clients do not
// come back all at once, and waits until they are gone or ctx ends. No session may be
// added any more.
func (r *Registry) Drain(ctx context.Context, window time.Duration) {
	sessions := r.all(ctx)
	rand.Shuffle(len(sessions), func(i, j int) { sessions[i], sessions[j] = sessions[j], sessions[i] })
	ticker := time.NewTicker(drainStep)
	defer ticker.Stop()
	start, closed := time.Now(), 0
	for closed < len(sessions) || r.Len() > 0 {
		share := 1.0
		if window > 0 {
			share = min(1, float64(time.Since(start)+drainStep)/float64(window))
		}
		for ; closed < int(share*float64(len(sessions))); closed++ {
			sessions[closed].Close(Drained)
			sessions[closed] = nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (r *Registry) count(c Closing) { r.stats.closed.WithLabelValues(codeLabel(c.Code)).Inc() }

// metrics of sessions; the first two names are Drogue's.
type metrics struct {
	incoming *prometheus.CounterVec
	closed   *prometheus.CounterVec
	silent   prometheus.Counter
	tooMany  prometheus.Counter // messages
	tooBig   prometheus.Counter // messages

	unfinished prometheus.Counter // messages
	unread     *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, r *Registry) *metrics {
	m := &metrics{
		incoming: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "drogue_ws_integration_incoming_message",
			Help: "Messages from clients, by type.",
		}, []string{"type"}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "canopy_edge_closed_total",
			Help: "Sessions closed with a close frame, by its code; \"private\" are the clients' codes from 3000 on, 1005 those without one.",
		}, []string{"code"}),
		silent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "canopy_edge_silent_total",
			Help: "Sockets dropped because they answered no Ping.",
		}),
		tooMany: NewOverLimit(reg, "messages_per_second"),
		tooBig:  NewOverLimit(reg, "message_bytes"),
		unfinished: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "canopy_edge_unfinished_total",
			Help: "Sockets closed because a message or a TLS record was not finished within 10 s, or because all unfinished ones held more than 64 MiB.",
		}),
	}
	m.unread = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "canopy_edge_unread_total",
		Help: "Sockets cut because they did not read, by cause: memory are those that held most for the longest time when all held too much, replies those that made TLS answer.",
	}, []string{"cause"})
	for _, why := range []ws.Unread{ws.UnreadMemory, ws.UnreadReplies} {
		m.unread.WithLabelValues(string(why)) // so that it is there before it counts
	}
	reg.MustRegister(m.unread, m.incoming, m.closed, m.silent, m.unfinished, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "canopy_edge_unfinished_bytes", Help: "Bytes that messages and TLS records of clients hold that are not finished.",
	}, func() float64 { return float64(r.engine.Unfinished()) }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "canopy_edge_accesses", Help: "Pairs of a principal and an application that open sockets have; about each access is asked again.",
	}, func() float64 { return float64(r.accesses.len()) }), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "drogue_connections", Help: "Open sockets.",
		ConstLabels: prometheus.Labels{"protocol": "ws", "type": "integration"},
	}, func() float64 { return float64(r.Len()) }))
	return m
}
