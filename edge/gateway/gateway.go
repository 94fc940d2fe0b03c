// Package gateway is the front door of the edge: it wires its parts, answers requests,
// and drains.
//
// The life of a connection: net/http reads the request with limits and time-outs →
// admission (limits, upgrade headers, who is it, may it read) → feed.Hub.Attach fixes its
// place → 101 → ws.Engine.Adopt moves it onto a poller → the sweep writes events →
// session.Close.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/feed"
	"canopy/edge/internal/group"
	"canopy/edge/internal/procs"
	"canopy/edge/internal/session"
	"canopy/edge/internal/ws"
	"canopy/shared/config"
	"canopy/shared/natsconn"
	"canopy/shared/obs"
)

const (
	// closeGrace is how long clients have at most to answer the last close frames of a
	// drain. After a short drain they have less, so that Ctrl-C on a desk is prompt.
	closeGrace    = 6 * time.Second
	minCloseGrace = time.Second

	// handshakeGrace is how long a drain lets requests finish that are under way. It is
	// short, since clients that never finish one must not take time from open sockets.
	handshakeGrace = 500 * time.Millisecond

	// groupGrace is how long a drain lets members acknowledge what they were sent.
	groupGrace = time.Second

	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 30 * time.Second

	// requestTimeout is for all of a request and its answer: the header, the place in a
	// feed, and clients that send no body or read no answer.
	requestTimeout = readHeaderTimeout + attachTimeout + 2*time.Second

	// slopHeaderBytes are what net/http allows more than it is told.
	slopHeaderBytes = 4 << 10
)

// Addrs are the addresses that an edge listens at.
type Addrs struct {
	HTTP   net.Addr // sockets
	Health net.Addr // probes and metrics
}

// edge is everything that one Run owns.
type edge struct {
	cfg         config.Config
	log         *zap.Logger
	health      *obs.Health
	listener    net.Listener
	proxies     []netip.Prefix // whose word about their clients is believed
	strangers   *strangers
	limits      *limits
	door        *door
	handshakes  *handshakes
	server      *http.Server
	feeds       *nats.Conn // events only
	requests    *nats.Conn
	members     *nats.Conn // events of groups and their acknowledgements
	access      source
	authn       *authn.Authenticator
	engine      *ws.Engine
	deflater    *ws.Deflater // nil if compression is off
	hub         *feed.Hub
	groups      *group.Hub
	repairs     atomic.Pointer[feed.Hub]  // hub, for callbacks of NATS, which may come before it is made
	looks       atomic.Pointer[group.Hub] // groups, likewise
	sessions    *session.Registry
	admit       *admission
	certificate *certificate // nil without TLS
	broken      chan error   // has room for one: why the edge cannot go on
}

// Run serves until ctx ends, then drains: no new sockets, the open ones are closed over
// cfg.Edge.Drain, and it returns nil. It binds before it serves; ready, which may be nil,
// is called with the bound addresses. An error says what could not be started, or what
// broke.
func Run(ctx context.Context, cfg config.Config, log *zap.Logger, ready func(Addrs)) error {
	for _, warning := range cfg.WarnEdge() {
		log.Warn(warning)
	}
	e := &edge{cfg: cfg, log: log, broken: make(chan error, 1)}
	if err := e.open(ctx); err != nil {
		e.close()
		return err
	}
	defer e.close()
	if ready != nil {
		ready(Addrs{HTTP: e.listener.Addr(), Health: e.health.Addr()})
	}
	log.Info("edge serves", zap.Stringer("http", e.listener.Addr()), zap.Stringer("health", e.health.Addr()))
	return e.serve(ctx)
}

// open makes all parts, the listeners first.
func (e *edge) open(ctx context.Context) error {
	reg := obs.NewRegistry()
	e.health = obs.NewHealth(e.cfg.Runtime.Health, reg, e.log)
	if err := e.health.Listen(); err != nil {
		return fmt.Errorf("start edge: %w", err)
	}
	var err error
	if err = e.listen(ctx, reg); err != nil {
		return fmt.Errorf("start edge: listen for sockets: %w", err)
	}
	if err := e.openAccess(reg); err != nil {
		return err
	}
	if e.authn, err = authn.New(e.cfg.OAuth, e.access, e.log, reg); err != nil {
		return err
	}
	if err := e.openNATS(); err != nil {
		return err
	}
	limits := e.cfg.Edge.Limits
	e.engine = ws.NewEngine(ws.Config{
		Log: e.log, MaxMessage: int(limits.MessageBytes), MaxFrames: limits.MessagesPerSecond,
		MaxHeld: e.cfg.Edge.Buffers.SocketBytes, Spared: procs.Spared(),
	})
	if err := e.engine.Start(); err != nil {
		return err
	}
	e.deflater = newDeflater(e.cfg.Edge, reg)
	e.hub = feed.New(feed.Config{
		Buffers: e.cfg.Edge.Buffers, Held: e.engine.Held, Press: e.engine.Press, Resharded: e.breaks,
		Others: []*nats.Conn{e.members}, Deflater: e.deflater,
		Allowance: allowance(limits.ReplayEventsPerMinute, session.NewOverLimit(reg, "replay_events_per_minute")),
	}, e.feeds, e.requests, e.log, reg)
	e.repairs.Store(e.hub)
	if err := e.openGroups(reg); err != nil {
		return err
	}
	e.sessions = session.NewRegistry(e.engine, e.authn, e.access, e.cfg.Edge.Ping, e.log, reg)
	if e.admit, err = newAdmission(e, reg); err != nil {
		return err
	}
	if e.server, err = newServer(e.admit, int(limits.HeaderBytes), e.log); err != nil {
		return err
	}
	e.server.ConnState = e.admit.connState
	e.server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, c)
	}
	e.health.AddCheck("nats", natsconn.Check(e.feeds))
	e.health.AddCheck("nats requests", natsconn.Check(e.requests))
	e.health.AddCheck("nats groups", natsconn.Check(e.members))
	e.health.AddCheck("streams", e.hub.Ready)
	e.health.AddCheck("openid", e.authn.Ready)
	e.health.HandleDebug("POST /debug/disconnect", disconnect(e.sessions, e.log))
	return nil
}

// newServer makes the server of requests for a socket. What it reports by itself, panics of
// the handler and connections that cannot be accepted, is logged as an error.
func newServer(handler http.Handler, headerBytes int, log *zap.Logger) (*http.Server, error) {
	errorLog, err := zap.NewStdLogAt(log, zap.ErrorLevel)
	if err != nil {
		return nil, fmt.Errorf("make log of requests: %w", err)
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerBytes - slopHeaderBytes,
		ErrorLog:          errorLog,
		// Or OPTIONS * is answered beside all limits.
		DisableGeneralOptionsHandler: true,
	}
	// A connection is for one socket: after a refusal it would have no place in any limit.
	server.SetKeepAlivesEnabled(false)
	return server, nil
}

func (e *edge) openGroups(reg prometheus.Registerer) (err error) {
	e.groups, err = group.New(group.Config{
		Groups: e.cfg.Edge.Groups, Limits: e.cfg.Edge.Limits, Bytes: e.cfg.Edge.Buffers.GroupBytes,
		Held: e.engine.Held, HeldLimit: e.cfg.Edge.Buffers.SocketBytes, Deflater: e.deflater,
	}, e.members, e.requests, e.hub, e.log, reg)
	if err != nil {
		return err
	}
	e.looks.Store(e.groups)
	e.health.HandleDebug("/debug/groups", e.groups)
	return nil
}

// openNATS connects three times: events must wait behind nothing.
func (e *edge) openNATS() (err error) {
	handlers := natsconn.Handlers{
		Closed: e.lost,
		Reconnected: func(*nats.Conn) {
			if hub := e.repairs.Load(); hub != nil {
				hub.Reconnected()
			}
		},
		AsyncError: func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if hub := e.repairs.Load(); hub != nil && sub != nil && errors.Is(err, nats.ErrSlowConsumer) {
				hub.Dropped(sub)
			}
		},
	}
	if e.feeds, err = natsconn.Connect(e.cfg.NATS, "canopy-edge events", handlers, e.log); err != nil {
		return err
	}
	e.members, err = natsconn.Connect(e.cfg.NATS, "canopy-edge groups", natsconn.Handlers{
		Closed: e.lost,
		Reconnected: func(*nats.Conn) {
			if groups := e.looks.Load(); groups != nil {
				groups.Reconnected()
			}
		},
	}, e.log)
	if err != nil {
		return err
	}
	// A question that meets no connection fails at once and is asked again: one that waits in
	// a buffer is answered when nobody waits for it any more.
	e.requests, err = natsconn.Connect(e.cfg.NATS, "canopy-edge requests", natsconn.Handlers{Closed: e.lost}, e.log,
		nats.ReconnectBufSize(-1))
	return err
}

// lost notes that the NATS client has given a connection up for good, which ends the edge.
func (e *edge) lost(nc *nats.Conn) {
	e.breaks(fmt.Errorf("connection to NATS is closed: %w", errors.Join(nc.LastError(), nats.ErrConnectionClosed)))
}

// breaks has the edge drain and end because of err.
func (e *edge) breaks(err error) {
	select {
	case e.broken <- err:
	default: // it ends already
	}
}

// serve runs all parts until ctx ends or one breaks.
func (e *edge) serve(ctx context.Context) error {
	// Parts go in the order in which a connection needs them, so each has a context of
	// its own, and drain ends them one by one.
	parts, stopParts := context.WithCancel(context.WithoutCancel(ctx))
	defer stopParts()
	all, failed := errgroup.WithContext(parts)
	all.Go(func() error { return e.health.Run(parts) })
	all.Go(func() error { return e.hub.Run(parts) })
	all.Go(func() error { return e.groups.Run(parts) })
	all.Go(func() error { return e.sessions.Run(parts) })
	all.Go(func() error { return e.access.Run(parts) })
	all.Go(func() error { return e.authn.Run(parts) })
	if e.certificate != nil {
		all.Go(func() error { return e.certificate.Run(parts) })
	}
	all.Go(func() error {
		if err := e.server.Serve(e.front()); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("accept sockets: %w", err)
		}
		return nil
	})
	e.health.SetReady(true)
	select {
	case <-ctx.Done():
		e.drain()
	case err := <-e.broken:
		e.drain()
		stopParts()
		return errors.Join(err, all.Wait())
	case <-failed.Done():
	}
	stopParts()
	return all.Wait()
}

// drain closes all sockets so that their clients find another edge without a rush.
func (e *edge) drain() {
	e.health.SetReady(false)
	window := e.cfg.Edge.Drain
	e.log.Info("edge drains", zap.Int("sockets", e.sessions.Len()), zap.Duration("over", window))
	requests, cancel := context.WithTimeout(context.Background(), handshakeGrace)
	defer cancel()
	if err := e.server.Shutdown(requests); err != nil {
		_ = e.server.Close() // some request is stuck; its client sees a reset
	}
	groups, cancel := context.WithTimeout(context.Background(), groupGrace)
	defer cancel()
	e.groups.Drain(groups)
	ctx, cancel := context.WithTimeout(context.Background(), window+min(closeGrace, max(minCloseGrace, window)))
	defer cancel()
	e.sessions.Drain(ctx, window)
}

// close ends what open has made, in reverse order.
func (e *edge) close() {
	if e.server != nil {
		_ = e.server.Close() // closes the listener; nothing is left to save
	} else if e.listener != nil {
		_ = e.listener.Close()
	}
	if e.engine != nil {
		e.engine.Stop()
	}
	for _, nc := range []*nats.Conn{e.feeds, e.members, e.requests} {
		if nc != nil {
			nc.Close()
		}
	}
}

// newOutcomes counts upgrades by what became of them.
func newOutcomes(reg prometheus.Registerer) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "canopy_edge_requests_total",
		Help: "Requests for a socket, by the status that was answered; 101 is an open socket, 499 a client that left before.",
	}, []string{"status"})
	reg.MustRegister(c)
	return c
}
