// Package local runs everything on one machine and in one process: embedded NATS, an
// embedded Kafka, an OpenID issuer, both tiers and simulated sensors. It is for trying
// Canopy out and for tests.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"canopy/edge/gateway"
	"canopy/ingest/bridge"
	"canopy/shared/obs"
)

// Addrs says where the parts are reached: those of this process where they were bound,
// others where they were said to be.
type Addrs struct {
	// Kafka, NATS, HTTP and Health (both the edge's) and IngestHealth are host:port. Those
	// of a tier are "" if it does not run here.
	Kafka, NATS, HTTP, Health, IngestHealth string

	// Issuer is the URL of the OpenID issuer as tokens name it, IssuerAddr its host:port.
	Issuer, IssuerAddr string

	// Applications is the path of the applications file.
	Applications string

	// APIKey is alice's key for the private application; "" if it is not known.
	APIKey string

	// DataDir is the folder of everything that is stored.
	DataDir string
}

// Run starts the parts that cfg names, one after the other, prints to out where they are
// and what to try, and stops them in the opposite order when ctx ends. ready, which may be
// nil, is called once when all are up. The error is that of the first part that did not
// start, ended by itself or could not stop; then nothing is left running either.
func Run(ctx context.Context, cfg Config, log *zap.Logger, out io.Writer, ready func(Addrs)) (err error) {
	if err := probe(cfg.listeners()); err != nil {
		return err
	}
	dir, remove, err := dataDir(cfg.DataDir)
	if err != nil {
		return err
	}
	s := &stack{
		cfg: cfg, log: log, crew: newCrew(),
		at: Addrs{
			Kafka: cfg.KafkaAddr, NATS: cfg.NATSAddr, IssuerAddr: cfg.IssuerAddr,
			Issuer: cfg.issuerURL(), DataDir: dir,
		},
	}
	defer func() { err = errors.Join(err, s.crew.stop(), remove()) }()
	if err := s.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // stopped while it started
		}
		return err
	}
	if err := guide(out, cfg, s.at); err != nil {
		return fmt.Errorf("print what to try: %w", err)
	}
	if ready != nil {
		ready(s.at)
	}
	return s.crew.wait(ctx)
}

// stack is one run. It belongs to the goroutine of Run; a part writes to at only before it
// says that it is ready.
type stack struct {
	cfg  Config
	log  *zap.Logger
	crew *crew
	at   Addrs

	health *obs.Health // nil without an address for it
	sent   lately      // a simulated reading
}

// start starts the parts in the order of Parts, each when the one before is ready.
func (s *stack) start(ctx context.Context) error {
	var err error
	s.at.Applications, s.at.APIKey, err = demoApplications(s.at.DataDir)
	if err != nil {
		return err
	}
	if file := s.cfg.Settings.Edge.ApplicationsFile; file != "" {
		s.at.Applications, s.at.APIKey = file, ""
	}
	if err := s.serveHealth(ctx); err != nil {
		return err
	}
	runs := map[string]func(ctx context.Context, log *zap.Logger, ready func()) error{
		NATS: s.nats, Kafka: s.kafka, Issuer: s.issuer, Ingest: s.ingest, Edge: s.edge, Sensors: s.sensors,
	}
	for _, name := range Parts {
		if !s.cfg.runs(name) {
			continue
		}
		err := s.crew.start(ctx, name, func(ctx context.Context, ready func()) error {
			return runs[name](ctx, s.log.Named(name), ready)
		})
		if err != nil {
			return err
		}
		if err := s.awaitReadiness(ctx, name); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
		s.watch(name)
	}
	if s.health != nil {
		s.health.SetReady(true)
	}
	return nil
}

// awaitReadiness waits until a tier that has just started calls itself ready: until then
// ingest's streams may be missing, and the edge would refuse sockets.
func (s *stack) awaitReadiness(ctx context.Context, name string) error {
	health := map[string]string{Ingest: s.at.IngestHealth, Edge: s.at.Health}[name]
	if health == "" {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	go func() { failed <- s.crew.wait(ctx); cancel() }()
	err := pollReadiness(ctx, health, s.log.Named(name))
	cancel()
	return errors.Join(<-failed, err)
}

func (s *stack) nats(ctx context.Context, log *zap.Logger, ready func()) error {
	return runNATS(ctx, s.cfg.NATSAddr, s.path("nats"), log, func(addr string) {
		s.at.NATS = addr
		ready()
	})
}

func (s *stack) kafka(ctx context.Context, log *zap.Logger, ready func()) error {
	return runKafka(ctx, s.cfg.KafkaAddr, s.path("kafka"), log, func(addr string) {
		s.at.Kafka = addr
		ready()
	})
}

func (s *stack) issuer(ctx context.Context, log *zap.Logger, ready func()) error {
	return runIssuer(ctx, s.cfg.IssuerAddr, s.cfg.IssuerURL, s.path("issuer.pem"), log, func(name, addr string) {
		s.at.Issuer, s.at.IssuerAddr = name, addr
		ready()
	})
}

func (s *stack) ingest(ctx context.Context, log *zap.Logger, ready func()) error {
	settings := s.cfg.fill(s.at)
	if s.cfg.runs(Edge) {
		settings.Runtime.Health.BindAddr = s.cfg.IngestHealthAddr
	}
	return bridge.Run(ctx, settings, log, func(health net.Addr) {
		s.at.IngestHealth = health.String()
		ready()
	})
}

func (s *stack) edge(ctx context.Context, log *zap.Logger, ready func()) error {
	return gateway.Run(ctx, s.cfg.fill(s.at), log, func(addrs gateway.Addrs) {
		s.at.HTTP, s.at.Health = addrs.HTTP.String(), addrs.Health.String()
		ready()
	})
}

func (s *stack) sensors(ctx context.Context, log *zap.Logger, ready func()) error {
	return runSensors(ctx, s.cfg.fill(s.at).Kafka.BootstrapServers, log, &s.sent, ready)
}

func (s *stack) path(name string) string { return filepath.Join(s.at.DataDir, name) }

// dataDir makes the folder for everything that is stored. remove deletes it if it is a
// temporary one.
func dataDir(chosen string) (dir string, remove func() error, err error) {
	if chosen == "" {
		dir, err = os.MkdirTemp("", "canopy-local-")
		if err != nil {
			return "", nil, fmt.Errorf("make data folder: %w", err)
		}
		return dir, func() error { return os.RemoveAll(dir) }, nil
	}
	if dir, err = filepath.Abs(chosen); err != nil {
		return "", nil, fmt.Errorf("find data folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", nil, fmt.Errorf("make data folder: %w", err)
	}
	return dir, func() error { return nil }, nil
}

// issuerURL is how the issuer names itself before it is bound.
func (c Config) issuerURL() string {
	if c.IssuerURL != "" {
		return c.IssuerURL
	}
	return "http://" + c.IssuerAddr
}
