package publish

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"canopy/shared/config"
	"canopy/shared/stream"
	"canopy/shared/subject"
)

// Codes of nats-server's errors.json that are mistakes in the configuration, Canopy's or
// the server's: trying again does not help.
const (
	errCodeMaxStreams      = 10027
	errCodeInvalidConfig   = 10052
	errCodeSubjectsOverlap = 10065

	errCodeReplicasNeedCluster = 10074
)

// configError is one that no repetition cures.
type configError struct{ err error }

func (e *configError) Error() string { return e.err.Error() }
func (e *configError) Unwrap() error { return e.err }

// want is has with everything that is Canopy's to decide.
func (s *Streams) want(has jetstream.StreamConfig, shard int) jetstream.StreamConfig {
	c := stream.Config(has, shard, s.cfg.Shards)
	r := s.cfg.Retention
	c.Description = "Canopy: the events of shard " + strconv.Itoa(shard)
	c.MaxAge = r.Age
	c.MaxBytes = streamBytes(s.cfg)
	c.MaxMsgsPerSubject = r.EventsPerApplication
	c.Duplicates = s.cfg.Duplicates
	if r.Age > 0 {
		c.Duplicates = min(c.Duplicates, r.Age) // the server takes no longer one
	}
	c.MaxConsumers = s.cfg.Consumers
	if has.Name == "" {
		// Fields whose zero value the server would take literally.
		c.MaxMsgs = -1
		c.MaxMsgSize = -1
	}
	return c
}

// streamBytes is how many bytes each stream may hold.
func streamBytes(cfg config.Ingest) int64 { return max(cfg.Retention.Bytes/int64(cfg.Shards), 1) }

// reportShards says what a changed number of shards means.
func (s *Streams) reportShards() {
	old := int(s.oldShards.Load())
	if old == 0 {
		return
	}
	var left []string
	for shard := s.cfg.Shards; shard < old; shard++ {
		left = append(left, subject.Stream(shard))
	}
	s.log.Error("the number of shards has changed: applications move to other streams, and the cursors "+
		"and groups that clients have are void; all edges must be started again",
		zap.Int("shards", s.cfg.Shards), zap.Int("before", old), zap.Strings("streams_left_as_they_are", left))
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
