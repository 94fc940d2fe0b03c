package gateway

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/edge/internal/ws"
	"canopy/shared/config"
)

// openingBytes are what a client may send for its TLS handshake, in bytes, beside twice what
// its request may have: TLS adds less than that to records of a line each.
const openingBytes = 16 << 10

// listen binds the address of sockets and lays around it what the configuration says:
// TCP → PROXY protocol → TLS → what front is there for.
func (e *edge) listen(ctx context.Context, reg prometheus.Registerer) error {
	var err error
	if e.proxies, err = config.Prefixes(e.cfg.HTTP.TrustedProxies); err != nil {
		return fmt.Errorf("read trusted proxies: %w", err)
	}
	e.strangers = newStrangers(reg)
	e.limits = newLimits(e.cfg.Edge.Limits, reg)
	e.door = newDoor(e.cfg.Edge.Limits, e.limits)
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "canopy_edge_half_open",
		Help: "Connections that are no socket yet.",
	}, e.door.count))
	e.handshakes = newHandshakes(e.cfg.Edge.Limits.HandshakesPerSecond, e.door, e.limits.handshakes)
	if e.cfg.HTTP.TLS() {
		if e.certificate, err = openCertificate(e.cfg.HTTP, e.log, reg); err != nil {
			return err
		}
	}
	if e.listener, err = ws.Listen(ctx, e.cfg.HTTP.BindAddr); err != nil {
		return err
	}
	if e.cfg.HTTP.ProxyProtocol {
		faulty := prometheus.NewCounter(prometheus.CounterOpts{
			Name: "canopy_edge_proxy_headers_refused_total",
			Help: "Connections closed because their peer is no trusted proxy, or sent no header of the PROXY protocol.",
		})
		reg.MustRegister(faulty)
		e.listener = ws.BehindProxy(e.listener, e.mayIntroduce, func(peer net.Addr, err error) {
			faulty.Inc()
			e.log.Debug("connection refused", zap.Stringer("peer", peer), zap.Error(err))
		})
	}
	if e.certificate != nil {
		e.listener = ws.Secure(e.listener, e.certificate.config(), ws.Opening{
			MaxBytes: openingBytes + 2*int(e.cfg.Edge.Limits.HeaderBytes),
			Turn:     e.handshakes.turn,
		})
	}
	return nil
}

// mayIntroduce tells whether a peer may say whose connection it passes on.
func (e *edge) mayIntroduce(peer netip.Addr) bool { return len(e.proxies) == 0 || e.isProxy(peer) }

// front is what net/http serves.
func (e *edge) front() *front {
	f := &front{Listener: e.listener, lines: e.cfg.Edge.Limits.HeaderLines, limits: e.limits, answered: e.admit.answered}
	if e.cfg.HTTP.ProxyProtocol {
		f.introduced = e.admit.introduce
	}
	return f
}
