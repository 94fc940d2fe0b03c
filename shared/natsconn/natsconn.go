// Package natsconn opens the connections to NATS of both tiers: they are tried for ever,
// named, authenticated as configured, and what happens to them is logged once.
package natsconn

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"canopy/shared/config"
)

// InboxPrefix is where every inbox of Canopy begins, so that permissions can name it.
const InboxPrefix = "_INBOX_canopy"

const (
	connectTimeout = 5 * time.Second
	pingInterval   = 10 * time.Second
	maxPingsOut    = 2

	// All edges lose a server at the same moment; the jitter spreads their return.
	reconnectWait   = 250 * time.Millisecond
	reconnectJitter = 750 * time.Millisecond
)

// Handlers are told what happens to a connection, in addition to the log. Each may be
// nil. All of them run one after the other on the connection's callback goroutine: they
// must not block, and in particular send no request over the same connection.
type Handlers struct {
	// Connected is called once, when the first connection stands, however late that is.
	Connected func(*nats.Conn)

	// Disconnected is called at every loss of the connection, and when the caller
	// closes it; the error is nil if none is known.
	Disconnected func(*nats.Conn, error)

	// Reconnected is called after every later connection. The subscriptions have been
	// sent again by then; what was published to them in between is lost.
	Reconnected func(*nats.Conn)

	// AsyncError gets every asynchronous error, also those that are not logged because
	// they repeat: slow consumers, refused permissions. The subscription may be nil.
	AsyncError func(*nats.Conn, *nats.Subscription, error)

	// LameDuck is called when the server announces its shutdown. nats.go stays on that
	// server until it is cut off; ForceReconnect moves earlier.
	LameDuck func(*nats.Conn)

	// Closed is called when the connection has ended for good, also by the caller's
	// own Close. A server may cause it by an error that nats.go holds to be final.
	Closed func(*nats.Conn)
}

// Connect opens a connection that servers list under name. It waits for one attempt at
// each server of cfg.URL and then goes on trying in the background for ever: NATS being
// away is no error. Its errors are mistakes in cfg: URLs, files of credentials and TLS.
//
// opts come last and may replace what Connect chooses (ReconnectBufSize, say), except
// for the callbacks, which h is for. The caller closes or drains the connection.
func Connect(cfg config.NATS, name string, h Handlers, log *zap.Logger, opts ...nats.Option) (*nats.Conn, error) {
	auth, err := authentication(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	w := newWatcher(h, log.With(zap.String("connection", name)))
	all := []nats.Option{
		nats.Name(name),
		nats.Timeout(connectTimeout),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPingsOut),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.CustomInboxPrefix(InboxPrefix),
		nats.ConnectHandler(w.connected),
		nats.DisconnectErrHandler(w.disconnected),
		nats.ReconnectHandler(w.reconnected),
		nats.ReconnectErrHandler(w.notReached),
		nats.ErrorHandler(w.asyncError),
		nats.LameDuckModeHandler(w.lameDuck),
		nats.ClosedHandler(w.closed),
	}
	all = append(all, auth...)
	nc, err := nats.Connect(cfg.URL, append(all, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", withoutURL(err))
	}
	return nc, nil
}

// Check returns a readiness check: an error as long as nc is not connected. It is cheap
// and may be called from any goroutine.
func Check(nc *nats.Conn) func() error {
	return func() error {
		if s := nc.Status(); s != nats.CONNECTED && s != nats.DRAINING_SUBS && s != nats.DRAINING_PUBS {
			return fmt.Errorf("NATS is not connected: %s", strings.ToLower(s.String()))
		}
		return nil
	}
}

// authentication reads every file once, because nats.go would look at them only when it
// connects, and would then try a misspelt file for ever. It still reads them again at
// every connection, so that they may be renewed.
func authentication(cfg config.NATS) ([]nats.Option, error) {
	var opts []nats.Option
	var errs []error
	if f := cfg.CredentialsFile; f != "" {
		if _, err := os.ReadFile(f); err != nil {
			errs = append(errs, fmt.Errorf("read NATS__CREDENTIALS_FILE: %w", err))
		}
		opts = append(opts, nats.UserCredentials(f))
	}
	if f := cfg.TLS.CAFile; f != "" {
		if pem, err := os.ReadFile(f); err != nil {
			errs = append(errs, fmt.Errorf("read NATS__TLS__CA_FILE: %w", err))
		} else if !x509.NewCertPool().AppendCertsFromPEM(pem) {
			errs = append(errs, fmt.Errorf("read NATS__TLS__CA_FILE: no PEM certificate in %s", f))
		}
		opts = append(opts, nats.RootCAs(f))
	}
	if cert, key := cfg.TLS.CertFile, cfg.TLS.KeyFile; cert != "" || key != "" {
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
			errs = append(errs, fmt.Errorf("read NATS__TLS__CERT_FILE and NATS__TLS__KEY_FILE: %w", err))
		}
		opts = append(opts, nats.ClientCert(cert, key))
	}
	return opts, errors.Join(errs...)
}

// withoutURL drops the URL from an error, since it may hold a password.
func withoutURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("NATS__URL: %w", u.Err)
	}
	return err
}
