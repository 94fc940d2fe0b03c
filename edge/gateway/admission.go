package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/guard"
	"canopy/edge/internal/session"
	"canopy/edge/internal/ws"
	"canopy/shared/config"
)

const (
	subprotocol = "cloudevents.json"

	// spareDescriptors are kept for NATS, health, files and connections that are about
	// to be refused.
	spareDescriptors = 512

	attachTimeout = 8 * time.Second

	// connectionTimeout ends what is no socket so long after it came, whatever it waits
	// for. It is more than all that may take its time one after the other: the proxy's
	// header, the request's, the answer, and its way to the client.
	connectionTimeout = 45 * time.Second
)

// admission turns requests into sessions or refuses them, in a fixed order: connection
// limits, upgrade headers and parameters, authentication, authorization, limits of the user
// and of the application.
type admission struct {
	*edge
	limit    int // sockets at once
	askers   *guard.Guard[asker]
	overall  time.Duration // that a connection may take to become a socket
	origins  []string      // that may use Basic credentials, in one spelling; empty: the request's own
	outcomes *prometheus.CounterVec
	refusals *zap.Logger // of requests that were refused for no fault of their client
}

func newAdmission(e *edge, reg prometheus.Registerer) (*admission, error) {
	a := &admission{
		edge: e, limit: e.cfg.Edge.Limits.Connections,
		askers: newAskers(), outcomes: newOutcomes(reg),
		overall: connectionTimeout, refusals: seldom(e.log),
	}
	for _, text := range e.cfg.Edge.AllowedOrigins {
		origin, err := config.Origin(text)
		if err != nil {
			return nil, fmt.Errorf("read allowed origins: %w", err)
		}
		a.origins = append(a.origins, origin)
	}
	descriptors := descriptorLimit()
	most := descriptors - spareDescriptors
	if most <= 0 {
		return nil, fmt.Errorf("start edge: %d open files are allowed, no socket has room beside the %d that the edge needs; raise ulimit -n", descriptors, spareDescriptors)
	}
	if a.limit > most {
		e.log.Warn("the limit of connections is cut to what descriptors there are",
			zap.Int("limit", a.limit), zap.Int("cut to", most))
	}
	if a.limit == 0 || a.limit > most {
		a.limit = most
	}
	return a, nil
}

// descriptorLimit is the number of files that this process may open.
func descriptorLimit() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024 // what POSIX systems give at least
	}
	return int(min(limit.Cur, 1<<30))
}

// connState counts the connections that are no sockets yet, and ends those beyond any hope of
// an answer, so that slow requests cannot use up the descriptors or the memory, nor those of
// one address the room of all others. None may stay for longer than overall.
func (a *admission) connState(conn net.Conn, state http.ConnState) {
	c, ok := conn.(*frontConn)
	if !ok {
		return
	}
	switch state {
	case http.StateNew:
		c.overall = time.AfterFunc(a.overall, func() {
			a.answered(http.StatusRequestTimeout)
			c.cut() // StateClosed follows
		})
		if !a.letIn(c) {
			c.cut()
		}
	case http.StateHijacked, http.StateClosed:
		c.overall.Stop()
		a.door.leave(&c.visitor)
	}
}

// letIn tells whether a new connection may stay.
func (a *admission) letIn(c *frontConn) bool {
	var address netip.Prefix
	if !a.cfg.HTTP.ProxyProtocol { // or the address would have to be waited for
		address = a.counted(c.Conn.RemoteAddr())
	}
	// So many at least learn that the edge is full.
	descriptors := max(1, a.limit+spareDescriptors/2-a.sessions.Len())
	if !a.door.enter(&c.visitor, address, descriptors) {
		return false
	}
	if a.limits.arrivals != nil && !a.limits.arrivals.Allow() {
		a.limits.often.Inc()
		return false
	}
	return true
}

// introduce counts a connection for the address that its proxy has named. It is false if that
// has too many.
func (a *admission) introduce(c *frontConn, address net.Addr) bool {
	return a.door.introduce(&c.visitor, a.counted(address))
}

// counted is what a connection from address counts for: nobody if that speaks for many.
func (a *admission) counted(address net.Addr) netip.Prefix {
	peer, ok := parseAddress(address.String())
	if !ok || a.isProxy(peer) {
		return netip.Prefix{}
	}
	return network(peer)
}

func (a *admission) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c, ok := r.Context().Value(connKey{}).(*frontConn); ok {
		a.door.requested(&c.visitor)
		defer a.door.awaited(&c.visitor) // no socket's, which has left
	}
	a.cors(w, r)
	if r.ContentLength != 0 {
		// net/http would wait for the body before it answers.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now()) // fails only if the client is gone
	}
	refused := a.open(w, r)
	if refused == nil {
		return
	}
	a.answered(refused.status)
	if refused.cause != nil && refused.status >= http.StatusInternalServerError {
		a.refusals.Warn("socket refused", zap.Int("status", refused.status), zap.Error(refused.cause))
	}
	refused.write(w)
}

// refusalsLogged is how many refusals are logged in a second: clients may come as fast as they
// like while something is out of order.
const refusalsLogged = 10

// seldom gives log for messages that anybody can cause.
func seldom(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Second, refusalsLogged, 0)
	}))
}

// answered counts a request.
func (a *admission) answered(status int) { a.outcomes.WithLabelValues(strconv.Itoa(status)).Inc() }

// open answers 101 and hands the connection over, or answers a preflight, or says why not.
func (a *admission) open(w http.ResponseWriter, r *http.Request) *refusal {
	if a.sessions.Len() >= a.limit {
		a.limits.full.Inc()
		return full()
	}
	if peer := peerAddress(r); len(r.Header.Values("X-Forwarded-For")) > 0 && !a.isProxy(peer) {
		a.strangers.note(a.log, peer)
	}
	place, refused := a.limits.enter(a.clientAddress(r))
	if refused != nil {
		return refused
	}
	kept := false // by the session, which gives the place back at its end
	defer func() {
		if !kept {
			place.leave()
		}
	}()
	if a.preflight(w, r) {
		return nil
	}
	refused = a.admit(w, r, place)
	kept = refused == nil
	return refused
}

// admit is open for a request that has a place.
func (a *admission) admit(w http.ResponseWriter, r *http.Request, place *place) *refusal {
	to, refused := parseTarget(r)
	if refused != nil && refused.status == http.StatusNotFound {
		return refused
	}
	if err := ws.CheckUpgrade(r); err != nil {
		return badRequest(err.Error())
	}
	if refused != nil {
		return refused
	}
	principal, refused := a.identify(r, to)
	if refused != nil {
		return refused
	}
	granted, refused := a.authorize(r, principal, to.application)
	if refused != nil {
		return refused
	}
	if refused := place.claim(principal, to.application); refused != nil {
		return refused
	}
	s := a.sessions.New(to.application, principal)
	s.Ended = place.end()
	return a.upgrade(w, r, to, s, granted)
}

// identify says who brings the request.
func (a *admission) identify(r *http.Request, to target) (authn.Principal, *refusal) {
	credentials, err := authn.FromRequest(r.Header, to.credentials)
	if err != nil {
		message := "Forbidden"
		if invalid := (*authn.Invalid)(nil); errors.As(err, &invalid) {
			message = invalid.Message()
		}
		return authn.Principal{}, forbidden(message, err)
	}
	if refused := a.checkOrigin(r); refused != nil {
		return authn.Principal{}, refused
	}
	principal, err := a.authn.Authenticate(r.Context(), credentials, network(a.clientAddress(r)).Addr())
	var failed *authn.TooMany
	switch {
	case errors.As(err, &failed):
		a.limits.signIns.Inc()
		message := "Too many failed sign-ins from this address"
		if failed.Everywhere {
			message = "Too many failed sign-ins of this user"
		}
		return authn.Principal{}, tooMany(message, seconds(failed.RetryAfter))
	case errors.Is(err, authn.ErrForbidden):
		return authn.Principal{}, forbidden("Forbidden", err)
	case errors.Is(err, authn.ErrBusy):
		return authn.Principal{}, a.limits.busy()
	case err != nil:
		return authn.Principal{}, internal("Authentication is not available", err)
	}
	return principal, nil
}

// upgrade fixes the session's place in the feed, then answers 101: what is acknowledged
// after the client saw that comes.
func (a *admission) upgrade(w http.ResponseWriter, r *http.Request, to target, s *session.Session, granted grant) *refusal {
	ctx, cancel := context.WithTimeout(r.Context(), attachTimeout)
	defer cancel()
	offer := a.compression(r)
	if offer.Deflate() {
		s.Deflate()
	}
	if refused := a.attach(ctx, r, to, granted.as, s); refused != nil {
		return refused
	}
	if !a.sessions.Add(s, a.limit, granted.asked) {
		s.Abandon()
		a.limits.full.Inc()
		return full() // others came at the same time
	}
	select {
	case <-granted.changed: // perhaps before the session could be found by those who close it
		now, refused := a.authorize(r, s.Principal(), to.application)
		if refused == nil && to.group != nil && now.as < granted.as { // the group is not his any more
			refused = unavailable("Access to the group has just changed", nil)
		}
		if refused != nil {
			s.Abandon()
			return refused
		}
	default:
	}
	protocol := ""
	if ws.OffersSubprotocol(r, subprotocol) {
		protocol = subprotocol
	}
	conn, early, err := ws.Accept(w, r, protocol, offer)
	if err != nil {
		s.Abandon()
		a.log.Debug("answer 101", zap.Error(err))
		return nil // the client is gone, or never can get an answer
	}
	a.answered(http.StatusSwitchingProtocols)
	if err := a.engine.Adopt(&s.Conn, s, conn, early); err != nil {
		s.Abandon()
		a.log.Debug("adopt socket", zap.Error(err))
		return nil
	}
	s.Release()
	return nil
}
