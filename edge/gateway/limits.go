package gateway

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/feed"
	"canopy/edge/internal/procs"
	"canopy/edge/internal/session"
	"canopy/shared/config"
)

// limits bound what the clients of an edge hold. Counts are exact: a place is taken before
// it is used and given back once, in whatever way its socket ends. Any goroutine may use
// them. The limit of all sockets is the registry's of sessions.
type limits struct {
	full         prometheus.Counter // refusals by the limit of all sockets
	often        prometheus.Counter // refusals by perSecond
	headerBytes  prometheus.Counter // refusals by the size of headers
	headerLines  prometheus.Counter // refusals by their number
	halfOpen     prometheus.Counter // connections closed by the number of those that are no sockets yet
	visitors     prometheus.Counter // connections closed by the number of those of one address
	handshakes   prometheus.Counter // TLS handshakes that waited in vain
	groups       prometheus.Counter // refusals by the number of an application's groups
	publicGroups prometheus.Counter // refusals by the number of all public readers' groups
	newGroups    prometheus.Counter // refusals by the number of new ones of an address without signing in
	usersGroups  prometheus.Counter // refusals by the number of new ones of a user, or of an address's users
	signIns      prometheus.Counter // refusals by the number of sign-ins that failed
	vain         prometheus.Counter // refusals by the number of questions about access that is not there
	questions    prometheus.Counter // refusals by the number of questions to Drogue's services at once
	perSecond    *rate.Limiter      // of requests; nil is off
	arrivals     *rate.Limiter      // of connections; likewise
	addresses    quota[netip.Prefix]
	users        quota[string] // by the name of the principal: see place.user
	applications quota[string]
}

func newLimits(l config.Limits, reg prometheus.Registerer) *limits {
	over := func(limit string) prometheus.Counter { return session.NewOverLimit(reg, limit) }
	all := &limits{
		full:         over("connections"),
		often:        over("connections_per_second"),
		headerBytes:  over("header_bytes"),
		headerLines:  over("header_lines"),
		halfOpen:     over("half_open"),
		visitors:     over("half_open_per_address"),
		handshakes:   over("handshakes_per_second"),
		groups:       over("groups_per_application"),
		publicGroups: over("public_groups"),
		newGroups:    over("new_groups_per_address"),
		usersGroups:  over("new_groups_per_user"),
		signIns:      over("failed_sign_ins"),
		vain:         over("forbidden_applications"),
		questions:    over("questions"),
		addresses:    newQuota[netip.Prefix](l.ConnectionsPerAddress, over("connections_per_address")),
		users:        newQuota[string](l.ConnectionsPerUser, over("connections_per_user")),
		applications: newQuota[string](l.ConnectionsPerApplication, over("connections_per_application")),
	}
	if n := l.ConnectionsPerSecond; n > 0 {
		all.perSecond = rate.NewLimiter(rate.Limit(n), n)
		// As many again are told why they are refused. Whoever comes beyond that costs no
		// TLS handshake.
		all.arrivals = rate.NewLimiter(rate.Limit(2*n), 2*n)
	}
	return all
}

// enter gives a request from address its place, or says why there is none. Those of an
// address that has enough already do not take the chance of others to come in this second.
func (l *limits) enter(address netip.Addr) (*place, *refusal) {
	p := &place{limits: l, address: network(address)}
	if !l.addresses.take(p.address) {
		return nil, tooMany("Too many connections from this address", socketsRetryAfter)
	}
	p.held = 1
	if l.perSecond != nil && !l.perSecond.Allow() {
		p.leave()
		l.often.Inc()
		refused := unavailable("Too many new connections on this edge", nil)
		refused.retryAfter = 1
		return nil, refused
	}
	return p, nil
}

// busy is the answer to a client about whom there was no room to ask.
func (l *limits) busy() *refusal {
	l.questions.Inc()
	return unavailable("Too many clients are asked about", nil)
}

// place is what one socket holds of the limits, from its request to its end. Only the
// request's goroutine may claim; leave may be called by any, after that, and again.
type place struct {
	limits  *limits
	address netip.Prefix
	// user is the name of the principal, empty for an anonymous one. Whoever is a member of applications under one name is
	// one user, with tokens and with API keys: the first issuer's users and those of keys
	// share their names, all others are written so that they cannot be taken for them.
	user        string
	application string
	held        int // how many of the three, in the order in which they are claimed
	left        atomic.Bool
}

// claim adds the place among the sockets of p and of application, or says why there is
// none.
func (p *place) claim(principal authn.Principal, application string) *refusal {
	p.user, p.application = principal.User, application
	if principal.Kind != authn.Anonymous && !p.limits.users.take(p.user) {
		return tooMany("Too many connections of this user", socketsRetryAfter)
	}
	p.held = 2
	if !p.limits.applications.take(application) {
		return tooMany("Too many connections to this application", socketsRetryAfter)
	}
	p.held = 3
	return nil
}

// leave gives everything back, once.
func (p *place) leave() {
	if p.left.Swap(true) {
		return
	}
	l := p.limits
	if p.held >= 1 {
		l.addresses.give(p.address)
	}
	if p.held >= 2 && p.user != "" {
		l.users.give(p.user)
	}
	if p.held >= 3 {
		l.applications.give(p.application)
	}
}

// end is leave for the end of a socket, nil if that gives nothing back: it costs memory for
// as long as the socket is open.
func (p *place) end() func() {
	if l := p.limits; l.addresses.most == 0 && l.users.most == 0 && l.applications.most == 0 {
		return nil
	}
	return p.leave
}

// quota counts places by whom they belong to. It remembers those only who hold one, and so
// no more of them than there are sockets and requests.
type quota[K comparable] struct {
	most    int // 0 is off
	refused prometheus.Counter

	mu   sync.Mutex
	held map[K]int
}

func newQuota[K comparable](most int, refused prometheus.Counter) quota[K] {
	return quota[K]{most: most, refused: refused, held: make(map[K]int)}
}

// take takes one of k's places. It is false if k has all of them.
func (q *quota[K]) take(k K) bool {
	if q.most == 0 {
		return true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.held[k] >= q.most {
		q.refused.Inc()
		return false
	}
	q.held[k]++
	return true
}

// give gives one of k's places back.
func (q *quota[K]) give(k K) {
	if q.most == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.held[k]--; q.held[k] == 0 {
		delete(q.held, k)
	}
}

// What is read from the log for sockets with since: a reader gets what it may have in a
// replayBurst of a minute at once, and all of them together so many events a second for each
// core, which takes about a quarter of it.
const (
	replayBurst   = 20
	replayPerCore = 25_000
)

func allowance(perMinute int, over prometheus.Counter) feed.Allowance {
	if perMinute == 0 {
		return feed.Allowance{}
	}
	return feed.Allowance{
		EventsPerMinute: perMinute, AtOnce: perMinute / replayBurst,
		EventsPerSecond: replayPerCore * procs.Workers(), Over: over,
	}
}
