package gateway

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// clientAddress is the address that a request comes from, without a port: everything that
// counts by address uses it. It is the peer's, or what the PROXY protocol says, unless that
// is a trusted proxy: then X-Forwarded-For is read from the right up to the first address
// that is none. What stands left of it was written by the client, and so is an entry that
// is no address: the proxy that passed it on counts then. The zero Addr means that net/http
// does not know the peer.
func (e *edge) clientAddress(r *http.Request) netip.Addr {
	address := peerAddress(r)
	if !e.isProxy(address) {
		return address
	}
	lines := r.Header.Values("X-Forwarded-For")
	for _, line := range slices.Backward(lines) {
		entries := strings.Split(line, ",")
		for _, entry := range slices.Backward(entries) {
			next, ok := parseAddress(strings.TrimSpace(entry))
			if !ok {
				return address
			}
			address = next
			if !e.isProxy(address) {
				return address
			}
		}
	}
	return address
}

// strangersInterval is the least time between two warnings of strangers.
const strangersInterval = 10 * time.Minute

// strangers notices peers that speak for others without being trusted: a client that poses
// as another one, or a proxy that the operator has not told of, behind which all clients
// share its address. Any goroutine may use it.
type strangers struct {
	seen    prometheus.Counter
	next    atomic.Int64 // when the next warning may come, in Unix nanoseconds
	present func() time.Time
}

func newStrangers(reg prometheus.Registerer) *strangers {
	s := &strangers{present: time.Now, seen: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "canopy_edge_untrusted_forwarded_total",
		Help: "Requests with X-Forwarded-For from a peer that is not in HTTP__TRUSTED_PROXIES: the header was ignored.",
	})}
	reg.MustRegister(s.seen)
	return s
}

// note counts such a request, and warns of it, rarely.
func (s *strangers) note(log *zap.Logger, peer netip.Addr) {
	s.seen.Inc()
	now, next := s.present(), s.next.Load()
	if now.UnixNano() < next || !s.next.CompareAndSwap(next, now.Add(strangersInterval).UnixNano()) {
		return
	}
	log.Warn("X-Forwarded-For is ignored: its sender is not in HTTP__TRUSTED_PROXIES. If it is a proxy of yours, all its clients count as one address",
		zap.Stringer("peer", peer))
}

// clientScheme is http or https as the client sees it, "" if that is not known: nobody
// need tell the edge that a proxy in front of it ends TLS.
func (e *edge) clientScheme(r *http.Request) string {
	if e.cfg.HTTP.TLS() {
		return "https"
	}
	lines := r.Header.Values("X-Forwarded-Proto")
	if len(lines) == 0 || !e.isProxy(peerAddress(r)) {
		return ""
	}
	entries := strings.Split(lines[len(lines)-1], ",")
	switch strings.ToLower(strings.TrimSpace(entries[len(entries)-1])) {
	case "https", "wss":
		return "https"
	case "http", "ws":
		return "http"
	}
	return ""
}

// isProxy tells whether what address says about its clients is believed.
func (e *edge) isProxy(address netip.Addr) bool {
	return slices.ContainsFunc(e.proxies, func(p netip.Prefix) bool { return p.Contains(address) })
}

func peerAddress(r *http.Request) netip.Addr {
	address, _ := parseAddress(r.RemoteAddr) // net/http writes what it got from the system
	return address
}

// parseAddress reads an address, with or without a port, and gives IPv4 its own form.
func parseAddress(text string) (netip.Addr, bool) {
	address, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	if err != nil {
		var withPort netip.AddrPort
		if withPort, err = netip.ParseAddrPort(text); err != nil {
			return netip.Addr{}, false
		}
		address = withPort.Addr()
	}
	return address.Unmap().WithZone(""), true
}

// network is what counts as one client address: of IPv6 a /64, of which any customer of a
// provider has all addresses.
func network(address netip.Addr) netip.Prefix {
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	prefix, _ := address.Prefix(bits) // the zero Prefix for the zero Addr
	return prefix
}
