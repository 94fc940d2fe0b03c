package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/edge/internal/ws"
	"canopy/shared/config"
)

// listen binds the address of sockets and lays around it what the configuration says:
// TCP → PROXY protocol → TLS → answers of net/http in JSON.
func (e *edge) listen(ctx context.Context, reg prometheus.Registerer) error {
	var err error
	if e.proxies, err = config.Prefixes(e.cfg.HTTP.TrustedProxies); err != nil {
		return fmt.Errorf("read trusted proxies: %w", err)
	}
	e.strangers = newStrangers(reg)
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
		e.listener = ws.Secure(e.listener, e.certificate.config())
	}
	return nil
}

// mayIntroduce tells whether a peer may say whose connection it passes on.
func (e *edge) mayIntroduce(peer netip.Addr) bool { return len(e.proxies) == 0 || e.isProxy(peer) }

// errorHeaders end the head of the answers that net/http writes by itself, before any
// handler, to requests that it cannot read.
const errorHeaders = "\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"

// jsonListener's connections answer in JSON where net/http would write plain text.
type jsonListener struct {
	net.Listener
	refused func(status int)
}

func (l jsonListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &jsonConn{Conn: conn, refused: l.refused}, nil
}

// jsonConn replaces such an answer, which net/http hands over in one piece and which no
// handler's answer can look like. Everything else passes as it is.
type jsonConn struct {
	net.Conn
	refused func(status int)

	// What follows is admission's.

	overall *time.Timer  // closes it
	peer    netip.Prefix // what it counts for
	counts  bool
}

// NetConn is the connection below.
func (c *jsonConn) NetConn() net.Conn { return c.Conn }

// CloseWrite ends the direction to the client, so that it reads the answer even if it is
// still sending.
func (c *jsonConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// Read reads, and tells a client that speaks plain HTTP where TLS is expected.
func (c *jsonConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if plain := (tls.RecordHeaderError{}); errors.As(err, &plain) && plain.Conn != nil {
		if method := plain.RecordHeader[:]; bytes.HasPrefix(method, []byte("GET /")) || bytes.HasPrefix(method, []byte("POST ")) {
			c.refused(http.StatusBadRequest)
			_, _ = plain.Conn.Write(badRequest("TLS is expected here: use wss").raw()) // the client may be gone
		}
	}
	return n, err
}

// Write writes b, or in its place the same refusal in JSON.
func (c *jsonConn) Write(b []byte) (int, error) {
	refused := ownRefusal(b)
	if refused == nil {
		return c.Conn.Write(b)
	}
	c.refused(refused.status)
	if _, err := c.Conn.Write(refused.raw()); err != nil {
		return 0, err
	}
	return len(b), nil
}

// ownRefusal reads an answer of net/http's own, nil if b is another one.
func ownRefusal(b []byte) *refusal {
	if bytes.HasPrefix(b, []byte("HTTP/1.1 417 ")) || bytes.HasPrefix(b, []byte("HTTP/1.0 417 ")) {
		// Another one than 100-continue; no handler answers so.
		return &refusal{status: http.StatusExpectationFailed, kind: "ExpectationFailed", message: "Expectation Failed: unknown expectation"}
	}
	rest, ok := bytes.CutPrefix(b, []byte("HTTP/1.1 "))
	if !ok || len(rest) < 3 {
		return nil
	}
	line, body, ok := bytes.Cut(rest, []byte(errorHeaders))
	status, err := strconv.Atoi(string(rest[:3]))
	if !ok || err != nil || bytes.ContainsAny(line, "\r\n") {
		return nil
	}
	message := strings.TrimPrefix(string(body), strconv.Itoa(status)+" ")
	return &refusal{status: status, kind: strings.ReplaceAll(http.StatusText(status), " ", ""), message: message}
}
