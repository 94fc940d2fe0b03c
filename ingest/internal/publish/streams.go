package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"canopy/shared/config"
	"canopy/shared/event"
	"canopy/shared/stream"
	"canopy/shared/subject"
)

const (
	streamsAtOnce    = 8
	streamTimeout    = 5 * time.Second
	streamRetryFirst = 250 * time.Millisecond
	streamRetryMax   = 5 * time.Second

	clusterReplicas = 3

	// glanceEvery is how often each stream is looked at without any reason: while nothing is
	// published, nobody else would notice that one is gone.
	glanceEvery = 20 * time.Second
)

// Streams makes the streams of all shards, and again those that are deleted while ingest
// runs: nothing that was not acknowledged is lost by it, for the lanes keep that. Ensure
// comes first, then Run, each once; Check is for any goroutine.
type Streams struct {
	js        jetstream.JetStream
	cfg       config.Ingest
	log       *zap.Logger
	beacons   *beacons
	lost      *shardSet
	there     atomic.Bool  // Ensure has succeeded
	oldShards atomic.Int64 // what a stream's metadata said before, if it differed
	every     time.Duration
}

// NewStreams makes Streams for the shards that p publishes to, over p's connection.
func NewStreams(cfg config.Ingest, p *Publisher, log *zap.Logger) (*Streams, error) {
	js, err := jetstream.New(p.nc)
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	return &Streams{js: js, cfg: cfg, log: log, beacons: p.beacons, lost: p.lost, every: glanceEvery}, nil
}

// Ensure creates the streams of all shards, and changes those that differ from the
// configuration. As long as JetStream is away, or has no leader or no room, it tries again
// and says so in the log. It returns an error if ctx ends, or if the configuration can
// never be met.
func (s *Streams) Ensure(ctx context.Context) error {
	wait := streamRetryFirst
	done := make([]bool, s.cfg.Shards)
	for {
		err := s.all(ctx, done)
		if err == nil {
			s.reportShards()
			s.there.Store(true)
			return nil
		}
		var never *configError
		if errors.As(err, &never) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.log.Error("the streams cannot be made yet; trying again", zap.Error(err), zap.Duration("in", wait))
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, streamRetryMax)
	}
}

// Run looks after streams that the publisher finds nobody at, and at every other one now
// and then, until ctx ends. It makes those again that are gone. What it cannot mend it
// logs, and tries again.
func (s *Streams) Run(ctx context.Context) {
	wait := streamRetryFirst
	glances := time.NewTicker(max(s.every/time.Duration(s.cfg.Shards), time.Millisecond))
	defer glances.Stop()
	for next := 0; ; {
		err := s.lookAfter(ctx)
		if err == nil {
			wait = streamRetryFirst
			select {
			case <-ctx.Done():
				return
			case <-s.lost.added:
			case <-glances.C:
				s.glance(ctx, next)
				next = (next + 1) % s.cfg.Shards
			}
			continue
		}
		if ctx.Err() != nil {
			return
		}
		s.log.Error("a stream takes no events; trying again", zap.Error(err), zap.Duration("in", wait))
		if pause(ctx, wait) != nil {
			return
		}
		wait = min(2*wait, streamRetryMax)
	}
}

// glance looks whether a stream is there, and the one that it was. One that does not answer
// is for the publisher to notice.
func (s *Streams) glance(ctx context.Context, shard int) {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	there, err := s.js.Stream(ctx, subject.Stream(shard))
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		s.beacons.unknown(shard)
		s.lost.add(shard)
	case err != nil:
	case event.LogOf(there.CachedInfo().Created) != s.beacons.before[shard]:
		s.lost.add(shard) // another ingest has made it
	}
}

// lookAfter sees to every stream that may be lost. It returns the first error.
func (s *Streams) lookAfter(ctx context.Context) error {
	var first error
	for shard, times := range s.lost.all() {
		if err := s.one(ctx, shard); err == nil {
			s.lost.remove(shard, times)
		} else if first == nil {
			first = err
		}
	}
	return first
}

// Check is a readiness check: an error if a stream has not been made yet, or has gone or
// has no leader.
func (s *Streams) Check() error {
	if !s.there.Load() {
		return errors.New("the streams are not there yet")
	}
	if lost := s.lost.all(); len(lost) > 0 {
		return fmt.Errorf("%d streams take no events, among them %s", len(lost), subject.Stream(slices.Min(slices.Collect(maps.Keys(lost)))))
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// all sees to every shard that is not done. It returns the first error, after every shard
// under way has had its turn.
func (s *Streams) all(ctx context.Context, done []bool) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(streamsAtOnce)
	for shard := range done {
		if done[shard] {
			continue
		}
		g.Go(func() error {
			if err := s.one(ctx, shard); err != nil {
				return err
			}
			done[shard] = true
			return nil
		})
	}
	return g.Wait()
}

func (s *Streams) one(ctx context.Context, shard int) error {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	name := subject.Stream(shard)
	there, err := s.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return s.create(ctx, shard)
	}
	if err != nil {
		return explain("read", name, err)
	}
	has := there.CachedInfo().Config
	if old, err := strconv.Atoi(has.Metadata[subject.MetadataShards]); err == nil && old != s.cfg.Shards {
		s.oldShards.Store(int64(old))
	}
	if err := s.update(ctx, shard, has); err != nil {
		return err
	}
	s.beacons.known(shard, event.LogOf(there.CachedInfo().Created))
	return nil
}

// closeLimit notes up to where a limit that was raised may have cost events. The stream is
// asked after the change, since until then the old limit went on to cost some.
func (s *Streams) closeLimit(ctx context.Context, name string) error {
	has, err := s.js.Stream(ctx, name)
	if err != nil {
		return explain("read", name, err)
	}
	if !stream.LimitIsOpen(has.CachedInfo().Config) {
		return nil
	}
	if _, err := s.js.UpdateStream(ctx, stream.CloseLimit(has.CachedInfo())); err != nil {
		return explain("update", name, err)
	}
	return nil
}

func (s *Streams) create(ctx context.Context, shard int) error {
	want := s.want(jetstream.StreamConfig{}, shard)
	made, err := s.withReplicas(want, func(c jetstream.StreamConfig) (jetstream.Stream, error) {
		return s.js.CreateStream(ctx, c)
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return fmt.Errorf("create stream %s: another ingest was faster: %w", want.Name, err)
	}
	if err != nil {
		return explain("create", want.Name, err)
	}
	c := made.CachedInfo().Config
	if s.there.Load() {
		s.log.Error("a stream was gone and is made again: what it held is lost, and its cursors are void", zap.String("stream", c.Name))
	}
	s.log.Info("stream created", zap.String("stream", c.Name), zap.Int("replicas", c.Replicas))
	s.beacons.known(shard, event.LogOf(made.CachedInfo().Created))
	return checkFast(c)
}

func (s *Streams) update(ctx context.Context, shard int, has jetstream.StreamConfig) error {
	want := s.want(has, shard)
	stream.RaiseLimit(has, &want)
	changed, err := s.withReplicas(want, func(c jetstream.StreamConfig) (jetstream.Stream, error) {
		if reflect.DeepEqual(c, has) {
			return nil, nil
		}
		return s.js.UpdateStream(ctx, c)
	})
	if err != nil {
		return explain("update", want.Name, err)
	}
	c := want
	if changed != nil {
		c = changed.CachedInfo().Config
		s.log.Info("stream changed", zap.String("stream", c.Name), zap.Strings("settings", differences(has, c)))
		if err := checkFast(c); err != nil {
			return err
		}
	}
	if stream.LimitIsOpen(want) {
		return s.closeLimit(ctx, want.Name)
	}
	return nil
}

// withReplicas does it with three replicas, and with one on a server that is alone, unless
// the configuration says how many. A single replica is tried second, because only the
// server knows whether it is one of a cluster.
func (s *Streams) withReplicas(c jetstream.StreamConfig, do func(jetstream.StreamConfig) (jetstream.Stream, error)) (jetstream.Stream, error) {
	if s.cfg.Replicas != 0 {
		c.Replicas = s.cfg.Replicas
		return do(c)
	}
	if c.Replicas <= 1 {
		c.Replicas = clusterReplicas
	}
	done, err := do(c)
	if apiCode(err) == errCodeReplicasNeedCluster {
		c.Replicas = 1
		return do(c)
	}
	return done, err
}
