package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/shared/config"
)

// certificateInterval is how often the files are looked at.
const certificateInterval = 2 * time.Second

// certificate is what the listener shows to clients. Its files are read again when they
// change, so that a renewal needs no restart: handshakes from then on get the new one.
// Run alone reads them, and any goroutine may ask for the last one that was good.
type certificate struct {
	certFile, keyFile string
	log               *zap.Logger
	expires           prometheus.Gauge
	reloads           *prometheus.CounterVec

	current atomic.Pointer[tls.Certificate]
	judged  [sha256.Size]byte // hash of the files' content, good or bad; Run's
	trouble string            // why the files could not be read, "" if they could; Run's
}

// openCertificate reads the files of h.
func openCertificate(h config.HTTP, log *zap.Logger, reg prometheus.Registerer) (*certificate, error) {
	c := &certificate{
		certFile: h.CertBundleFile, keyFile: h.KeyFile, log: log,
		expires: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "canopy_edge_certificate_expiry_timestamp_seconds",
			Help: "When the listener's certificate expires, in seconds since 1970.",
		}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "canopy_edge_certificate_reloads_total",
			Help: "Times that the certificate's files had changed, by outcome.",
		}, []string{"outcome"}),
	}
	chain, key, err := c.read()
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	if err := c.load(chain, key); err != nil {
		return nil, err
	}
	reg.MustRegister(c.expires, c.reloads)
	return c, nil
}

// config is the listener's.
func (c *certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"}, // a WebSocket of HTTP/2 is another protocol
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}

// Run looks at the files until ctx ends, then returns nil.
func (c *certificate) Run(ctx context.Context) error {
	ticker := time.NewTicker(certificateInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			c.poll()
		}
	}
}

// poll takes a new pair if there is a good one. A renewal writes two files: a pair that
// does not fit is looked at again when one of them changes once more.
func (c *certificate) poll() {
	chain, key, err := c.read()
	if err != nil {
		if c.trouble != err.Error() {
			c.trouble = err.Error()
			c.log.Warn("the certificate cannot be read; the last one stays", zap.Error(err))
		}
		return
	}
	c.trouble = ""
	if hash(chain, key) == c.judged {
		return
	}
	if err := c.load(chain, key); err != nil {
		c.reloads.WithLabelValues("refused").Inc()
		c.log.Warn("the new certificate is not good; the last one stays", zap.Error(err))
		return
	}
	c.reloads.WithLabelValues("loaded").Inc()
	c.log.Info("certificate loaded", zap.Time("expires", c.current.Load().Leaf.NotAfter))
}

func (c *certificate) read() (chain, key []byte, err error) {
	if chain, err = os.ReadFile(c.certFile); err != nil {
		return nil, nil, err
	}
	key, err = os.ReadFile(c.keyFile)
	return chain, key, err
}

// load makes a pair the current one if it is good. The error tells nothing of the key.
func (c *certificate) load(chain, key []byte) error {
	c.judged = hash(chain, key)
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return fmt.Errorf("load certificate %s with %s: %w", c.certFile, c.keyFile, err)
	}
	c.current.Store(&pair)
	c.expires.Set(float64(pair.Leaf.NotAfter.Unix()))
	return nil
}

func hash(chain, key []byte) [sha256.Size]byte {
	sum := sha256.Sum256(key)
	return sha256.Sum256(append(sum[:], chain...))
}
