package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/ws"
)

const (
	subprotocol = "cloudevents.json"

	// spareDescriptors are kept for NATS, health, files and connections that are about
	// to be refused.
	spareDescriptors = 512

	attachTimeout = 8 * time.Second
)

// admission turns requests into sessions or refuses them, in a fixed order: connection
// limits, upgrade headers and parameters, authentication, authorization.
type admission struct {
	*edge
	limit    int64        // sockets and requests at once
	pending  atomic.Int64 // connections that net/http still has
	outcomes *prometheus.CounterVec
}

func newAdmission(e *edge, reg prometheus.Registerer) *admission {
	a := &admission{edge: e, limit: int64(e.cfg.Edge.Limits.Connections), outcomes: newOutcomes(reg)}
	if a.limit == 0 {
		a.limit = descriptorLimit() - spareDescriptors
	}
	return a
}

// descriptorLimit is the number of files that this process may open.
func descriptorLimit() int64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024 // what POSIX systems give at least
	}
	return int64(min(limit.Cur, 1<<30))
}

// connState counts the connections that are no sockets yet, and closes those beyond any
// hope of an answer, so that slow requests cannot use up the descriptors.
func (a *admission) connState(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if a.pending.Add(1)+int64(a.sessions.Len()) > a.limit+spareDescriptors/2 {
			_ = c.Close() // StateClosed follows
		}
	case http.StateHijacked, http.StateClosed:
		a.pending.Add(-1)
	}
}

func (a *admission) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	refused := a.open(w, r)
	if refused == nil {
		return
	}
	a.outcomes.WithLabelValues(strconv.Itoa(refused.status)).Inc()
	if refused.cause != nil && refused.status >= http.StatusInternalServerError {
		a.log.Warn("socket refused", zap.Int("status", refused.status), zap.Error(refused.cause))
	}
	refused.write(w)
}

// open answers 101 and hands the connection over, or says why not.
func (a *admission) open(w http.ResponseWriter, r *http.Request) *refusal {
	if int64(a.sessions.Len()) >= a.limit {
		return unavailable("Too many connections on this edge", nil)
	}
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
	ok, err := a.file.MayRead(r.Context(), principal, to.application)
	if err != nil {
		return internal("Authorization is not available", err)
	}
	if !ok {
		return notFound(to.application)
	}
	return a.upgrade(w, r, to, principal)
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
	principal, err := a.authn.Authenticate(r.Context(), credentials)
	switch {
	case errors.Is(err, authn.ErrForbidden):
		return authn.Principal{}, forbidden("Forbidden", err)
	case err != nil:
		return authn.Principal{}, internal("Authentication is not available", err)
	}
	return principal, nil
}

// upgrade fixes the session's place in the feed, then answers 101: what is acknowledged
// after the client saw that comes.
func (a *admission) upgrade(w http.ResponseWriter, r *http.Request, to target, p authn.Principal) *refusal {
	s := a.sessions.New(to.application, p)
	ctx, cancel := context.WithTimeout(r.Context(), attachTimeout)
	defer cancel()
	if err := a.hub.Attach(ctx, to.application, to.filter, s, &s.Reader); err != nil {
		return unavailable("The event log is not available", err)
	}
	protocol := ""
	if ws.OffersSubprotocol(r, subprotocol) {
		protocol = subprotocol
	}
	conn, early, err := ws.Accept(w, r, protocol)
	if err != nil {
		s.Abandon()
		a.log.Debug("answer 101", zap.Error(err))
		return nil // the client is gone, or never can get an answer
	}
	a.outcomes.WithLabelValues("101").Inc()
	a.sessions.Add(s)
	if err := a.engine.Adopt(&s.Conn, s, conn, early); err != nil {
		s.Abandon()
		a.log.Debug("adopt socket", zap.Error(err))
		return nil
	}
	s.Reader.Release()
	return nil
}
