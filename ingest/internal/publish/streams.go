package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"canopy/shared/config"
	"canopy/shared/subject"
)

const (
	streamsAtOnce    = 8
	streamTimeout    = 5 * time.Second
	streamRetryFirst = 250 * time.Millisecond
	streamRetryMax   = 5 * time.Second

	clusterReplicas = 3
)

// Codes of nats-server's errors.json that are mistakes in the configuration, Canopy's or
// the server's: trying again does not help.
const (
	errCodeMaxStreams      = 10027
	errCodeInvalidConfig   = 10052
	errCodeSubjectsOverlap = 10065

	errCodeReplicasNeedCluster = 10074
)

// EnsureStreams creates the streams of all shards, and changes those that differ from cfg.
// As long as JetStream is away, or has no leader or no room, it tries again and says so in
// the log. It returns an error if ctx ends, or if the configuration can never be met.
func EnsureStreams(ctx context.Context, nc *nats.Conn, cfg config.Ingest, log *zap.Logger) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("use JetStream: %w", err)
	}
	e := &ensurer{js: js, cfg: cfg, log: log}
	wait := streamRetryFirst
	done := make([]bool, cfg.Shards)
	for {
		err := e.all(ctx, done)
		if err == nil {
			e.reportShards()
			return nil
		}
		var never *configError
		if errors.As(err, &never) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		log.Error("the streams cannot be made yet; trying again", zap.Error(err), zap.Duration("in", wait))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, streamRetryMax)
	}
}

// configError is one that no repetition cures.
type configError struct{ err error }

func (e *configError) Error() string { return e.err.Error() }
func (e *configError) Unwrap() error { return e.err }

type ensurer struct {
	js        jetstream.JetStream
	cfg       config.Ingest
	log       *zap.Logger
	oldShards atomic.Int64 // what a stream's metadata said before, if it differed
}

// all sees to every shard that is not done. It returns the first error, after every shard
// under way has had its turn.
func (e *ensurer) all(ctx context.Context, done []bool) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(streamsAtOnce)
	for shard := range done {
		if done[shard] {
			continue
		}
		g.Go(func() error {
			if err := e.one(ctx, shard); err != nil {
				return err
			}
			done[shard] = true
			return nil
		})
	}
	return g.Wait()
}

func (e *ensurer) one(ctx context.Context, shard int) error {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	name := subject.Stream(shard)
	stream, err := e.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return e.create(ctx, shard)
	}
	if err != nil {
		return explain("read", name, err)
	}
	has := stream.CachedInfo().Config
	if old, err := strconv.Atoi(has.Metadata[subject.MetadataShards]); err == nil && old != e.cfg.Shards {
		e.oldShards.Store(int64(old))
	}
	return e.update(ctx, shard, has)
}

func (e *ensurer) create(ctx context.Context, shard int) error {
	want := e.want(jetstream.StreamConfig{}, shard)
	stream, err := e.withReplicas(want, func(c jetstream.StreamConfig) (jetstream.Stream, error) {
		return e.js.CreateStream(ctx, c)
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return fmt.Errorf("create stream %s: another ingest was faster: %w", want.Name, err)
	}
	if err != nil {
		return explain("create", want.Name, err)
	}
	c := stream.CachedInfo().Config
	e.log.Info("stream created", zap.String("stream", c.Name), zap.Int("replicas", c.Replicas))
	return checkFast(c)
}

func (e *ensurer) update(ctx context.Context, shard int, has jetstream.StreamConfig) error {
	want := e.want(has, shard)
	stream, err := e.withReplicas(want, func(c jetstream.StreamConfig) (jetstream.Stream, error) {
		if reflect.DeepEqual(c, has) {
			return nil, nil
		}
		return e.js.UpdateStream(ctx, c)
	})
	if err != nil {
		return explain("update", want.Name, err)
	}
	if stream == nil {
		return nil
	}
	c := stream.CachedInfo().Config
	e.log.Info("stream changed", zap.String("stream", c.Name), zap.Strings("settings", differences(has, c)))
	return checkFast(c)
}

// withReplicas does it with three replicas, and with one on a server that is alone, unless
// the configuration says how many. A single replica is tried second, because only the
// server knows whether it is one of a cluster.
func (e *ensurer) withReplicas(c jetstream.StreamConfig, do func(jetstream.StreamConfig) (jetstream.Stream, error)) (jetstream.Stream, error) {
	if e.cfg.Replicas != 0 {
		c.Replicas = e.cfg.Replicas
		return do(c)
	}
	if c.Replicas <= 1 {
		c.Replicas = clusterReplicas
	}
	stream, err := do(c)
	if apiCode(err) == errCodeReplicasNeedCluster {
		c.Replicas = 1
		return do(c)
	}
	return stream, err
}

// want is has with everything that is Canopy's to decide.
func (e *ensurer) want(has jetstream.StreamConfig, shard int) jetstream.StreamConfig {
	c := has
	r := e.cfg.Retention
	c.Name = subject.Stream(shard)
	c.Description = "Canopy: the events of shard " + strconv.Itoa(shard)
	c.Subjects = []string{subject.StreamSubjects(shard)}
	c.Storage = jetstream.FileStorage
	c.Retention = jetstream.LimitsPolicy
	c.Discard = jetstream.DiscardOld
	c.MaxAge = r.Age
	c.MaxBytes = max(r.Bytes/int64(e.cfg.Shards), 1)
	c.MaxMsgsPerSubject = r.EventsPerApplication
	c.Duplicates = e.cfg.Duplicates
	if r.Age > 0 {
		c.Duplicates = min(c.Duplicates, r.Age) // the server takes no longer one
	}
	c.MaxConsumers = e.cfg.Consumers
	c.AllowDirect = true
	c.AllowBatchPublish = true
	c.RePublish = &jetstream.RePublish{
		Source:      subject.StreamSubjects(shard),
		Destination: subject.Republish(shard),
	}
	c.Metadata = maps.Clone(has.Metadata) // the server keeps notes of its own there
	if c.Metadata == nil {
		c.Metadata = make(map[string]string, 2)
	}
	c.Metadata[subject.MetadataShards] = strconv.Itoa(e.cfg.Shards)
	c.Metadata[subject.MetadataShard] = strconv.Itoa(shard)
	if has.Name == "" {
		// Fields whose zero value the server would take literally.
		c.MaxMsgs = -1
		c.MaxMsgSize = -1
	}
	return c
}

// reportShards says what a changed number of shards means.
func (e *ensurer) reportShards() {
	old := int(e.oldShards.Load())
	if old == 0 {
		return
	}
	var left []string
	for shard := e.cfg.Shards; shard < old; shard++ {
		left = append(left, subject.Stream(shard))
	}
	e.log.Error("the number of shards has changed: applications move to other streams, and the cursors "+
		"and groups that clients have are void; all edges must be started again",
		zap.Int("shards", e.cfg.Shards), zap.Int("before", old), zap.Strings("streams_left_as_they_are", left))
}

// checkFast refuses a server that ignored what it does not know.
func checkFast(c jetstream.StreamConfig) error {
	if !c.AllowBatchPublish {
		return &configError{fmt.Errorf("stream %s does not take fast batches: nats-server 2.14 or later is needed", c.Name)}
	}
	return nil
}

// explain adds to err what an operator may not see in it.
func explain(verb, name string, err error) error {
	err = fmt.Errorf("%s stream %s: %w", verb, name, err)
	switch apiCode(err) {
	case errCodeMaxStreams, errCodeInvalidConfig, errCodeSubjectsOverlap:
		return &configError{err}
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w (JetStream has no leader, or this NATS user may not use $JS.API.STREAM)", err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w (no server of the cluster runs JetStream for this account)", err)
	}
	return err
}

func apiCode(err error) jetstream.ErrorCode {
	var js jetstream.JetStreamError
	if errors.As(err, &js) && js.APIError() != nil {
		return js.APIError().ErrorCode
	}
	return 0
}

// differences names the settings in which a and b differ.
func differences(a, b jetstream.StreamConfig) []string {
	var names []string
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range va.NumField() {
		if !reflect.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
			names = append(names, va.Type().Field(i).Name)
		}
	}
	return names
}
