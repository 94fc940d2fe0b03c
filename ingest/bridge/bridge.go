// Package bridge is ingest's front door: it puts together what takes records from Kafka to
// the streams, in the order in which a record meets it.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"canopy/ingest/internal/consume"
	"canopy/ingest/internal/convert"
	"canopy/ingest/internal/publish"
	"canopy/shared/config"
	"canopy/shared/natsconn"
	"canopy/shared/obs"
)

// Run bridges Kafka to JetStream until ctx ends; then it drains and returns nil. ready,
// which may be nil, is called once with the health server's address.
//
// Kafka and NATS may be away, at the start and later: Run waits for them. Its errors are
// mistakes in the configuration, and addresses that cannot be bound.
//
//	Kafka ─► consume.Consumer ─► hand ─► publish.Publisher ─► NATS
//	              ▲   │            └ convert.Converter │
//	              │   └ commits offsets                │
//	              └── Partition.Settled ◄── acknowledgements
//
// The parts end in the order of the stream: the consumer stops polling, waits for what is
// under way, commits and leaves; then the publisher, then health.
func Run(ctx context.Context, cfg config.Config, log *zap.Logger, ready func(health net.Addr)) error {
	reg := obs.NewRegistry()
	health := obs.NewHealth(cfg.Runtime.Health, reg, log)
	if err := health.Listen(); err != nil {
		return fmt.Errorf("start ingest: %w", err)
	}
	b, err := build(cfg, log, reg)
	if err == nil {
		defer b.nc.Close()
		health.AddCheck("kafka", b.consumer.Check)
		health.AddCheck("nats", natsconn.Check(b.nc))
		health.AddCheck("streams", b.streams.Check)
	}

	// after ends what must outlive the drain.
	after, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g, gctx := errgroup.WithContext(after)
	g.Go(func() error { return health.Run(gctx) })
	if err != nil {
		end()
		return errors.Join(fmt.Errorf("start ingest: %w", err), g.Wait())
	}
	if ready != nil {
		ready(health.Addr())
	}
	g.Go(func() error { return b.publisher.Run(gctx) })
	g.Go(func() error {
		defer end()
		// A failure of the others ends the consumer, too.
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(gctx, cancel)()
		if err := b.streams.Ensure(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		g.Go(func() error { b.streams.Run(gctx); return nil })
		health.SetReady(true)
		defer health.SetReady(false)
		log.Info("ingest runs", zap.Strings("topics", cfg.Ingest.Topics), zap.Int("shards", cfg.Ingest.Shards))
		return b.consumer.Run(ctx)
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("run ingest: %w", err)
	}
	return nil
}

// parts is what build makes.
type parts struct {
	nc        *nats.Conn
	streams   *publish.Streams
	publisher *publish.Publisher
	consumer  *consume.Consumer
}

func build(cfg config.Config, log *zap.Logger, reg prometheus.Registerer) (*parts, error) {
	// Without a buffer of its own nats.go refuses what it cannot send, and the lanes
	// keep it; with one, it would send late what the lanes have sent again.
	nc, err := natsconn.Connect(cfg.NATS, "canopy-ingest", natsconn.Handlers{}, log, nats.ReconnectBufSize(-1))
	if err != nil {
		return nil, err
	}
	p := publish.New(nc, cfg.Ingest, log, reg)
	s, err := publish.NewStreams(cfg.Ingest, p, log)
	if err != nil {
		nc.Close()
		return nil, err
	}
	h := newHand(cfg.Ingest.Shards, convert.New(cfg.Ingest.Application), p, log, reg)
	c, err := consume.New(cfg.Kafka, cfg.Ingest, h, log, reg)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &parts{nc, s, p, c}, nil
}
