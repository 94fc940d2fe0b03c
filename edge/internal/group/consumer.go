package group

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"canopy/shared/event"
	"canopy/shared/stream"
)

const (
	// requestsAtOnce bounds the requests about consumers that are under way: each that
	// makes one is a proposal to the whole cluster. Those about public readers' groups have
	// at most their share.
	requestsAtOnce = 32

	// awayRetry is how long a request waits that met no connection.
	awayRetry = 100 * time.Millisecond

	requestTimeout = 2 * time.Second

	// namesTimeout is for the list of a stream's consumers, which may be long.
	namesTimeout = 5 * time.Second
)

// Codes of nats-server's errors.json.
const (
	errCodeConsumerOffline  jetstream.ErrorCode = 10119
	errCodeConsumerExists   jetstream.ErrorCode = 10148
	errCodeNoMessageFound                       = 10037
	errCodeReplicasExceeded jetstream.ErrorCode = 10126
)

// ensure finds the group's consumer or makes it: a new group begins with new events.
func (h *Hub) ensure(ctx context.Context, g *Group, by Maker) error {
	asked := h.now()
	info, err := h.inspect(ctx, g)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		undo, refused := h.allow(ctx, g, by)
		if refused != nil {
			return refused
		}
		info, err = h.create(ctx, g, jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})
		if apiCode(err) != 0 { // any other error leaves open whether it was made
			undo()
		}
	} else if err == nil {
		info, err = h.adjust(ctx, g, info)
	}
	if err != nil {
		return err
	}
	if err := h.learnLimits(ctx, g, lookEvery); err != nil {
		return err
	}
	g.logID.Store(uint64(h.streams.Log(g.subject.shard)))
	return h.see(ctx, g, info, asked, !info.PushBound) // else somebody else was told
}

// request runs one request about the consumer of g when few others are under way, and again when
// there is a connection if there was none: it has not left the edge then.
func (h *Hub) request(ctx context.Context, g *Group, do func(ctx context.Context) error) error {
	slots := []chan struct{}{h.slots}
	if g.key.Public {
		slots = []chan struct{}{h.publicSlots, h.slots}
	}
	for _, of := range slots {
		select {
		case of <- struct{}{}:
			defer func() { <-of }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for {
		err := do(ctx)
		if !errors.Is(err, nats.ErrReconnectBufExceeded) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(awayRetry):
		}
	}
}

func (h *Hub) inspect(ctx context.Context, g *Group) (info *jetstream.ConsumerInfo, err error) {
	err = h.request(ctx, g, func(ctx context.Context) error {
		c, err := h.js.PushConsumer(ctx, g.subject.stream, g.subject.consumer)
		if err != nil {
			return fmt.Errorf("ask for consumer %s: %w", g.subject.consumer, err)
		}
		info = c.CachedInfo()
		return nil
	})
	return info, err
}

// create makes the consumer. start says where it begins, and no more.
func (h *Hub) create(ctx context.Context, g *Group, start jetstream.ConsumerConfig) (info *jetstream.ConsumerInfo, err error) {
	cfg := h.want(g, start)
	err = h.request(ctx, g, func(ctx context.Context) error {
		c, err := h.js.CreatePushConsumer(ctx, g.subject.stream, cfg)
		if err != nil {
			return err
		}
		info = c.CachedInfo()
		return nil
	})
	switch code := apiCode(err); {
	case code == errCodeConsumerExists:
		return h.inspect(ctx, g) // another edge was faster
	case errors.Is(err, jetstream.ErrMaximumConsumersLimit):
		return nil, fmt.Errorf("%w: %w", ErrTooManyGroups, err)
	case err != nil:
		return nil, fmt.Errorf("create consumer %s: %w", cfg.Durable, err)
	}
	h.stats.created.Inc()
	h.log.Info("group made", zap.Stringer("group", g.key), zap.String("stream", g.subject.stream), zap.String("consumer", cfg.Durable))
	return info, nil
}

// adjust changes a consumer that was made with other limits than this edge has.
func (h *Hub) adjust(ctx context.Context, g *Group, info *jetstream.ConsumerInfo) (*jetstream.ConsumerInfo, error) {
	has, want := info.Config, h.want(g, info.Config)
	if has.MaxAckPending == want.MaxAckPending && has.AckWait == want.AckWait &&
		has.InactiveThreshold == want.InactiveThreshold && has.Replicas == want.Replicas {
		return info, nil
	}
	err := h.request(ctx, g, func(ctx context.Context) error {
		c, err := h.js.UpdatePushConsumer(ctx, g.subject.stream, want)
		if err != nil {
			return fmt.Errorf("update consumer %s: %w", want.Durable, err)
		}
		info = c.CachedInfo()
		return nil
	})
	if apiCode(err) == errCodeReplicasExceeded {
		return info, nil // a stream of fewer copies than the setting: it stays as it is
	}
	return info, err
}

// want is the group's consumer. The place where it begins comes from start.
func (h *Hub) want(g *Group, start jetstream.ConsumerConfig) jetstream.ConsumerConfig {
	c := h.config.Groups
	return jetstream.ConsumerConfig{
		Durable:           g.subject.consumer,
		Description:       describe(g.key),
		DeliverPolicy:     start.DeliverPolicy,
		OptStartSeq:       start.OptStartSeq,
		OptStartTime:      start.OptStartTime,
		AckPolicy:         jetstream.AckExplicitPolicy,
		AckWait:           c.AckWait,
		MaxDeliver:        -1,
		FilterSubject:     g.subject.filter,
		ReplayPolicy:      jetstream.ReplayInstantPolicy,
		MaxAckPending:     c.InFlight,
		DeliverSubject:    g.subject.deliver,
		DeliverGroup:      g.subject.consumer,
		InactiveThreshold: c.Forget,
		Replicas:          c.Replicas,
		Metadata:          start.Metadata, // the server keeps notes of its own there
	}
}

// describe is what people see of a consumer. The server takes no long ones.
func describe(k Key) string {
	text := "Canopy: " + k.String()
	return strings.ToValidUTF8(text[:min(len(text), 256)], "")
}

// retention is how much a stream keeps.
type retention struct {
	most  uint64        // events of an application, 0 for any number
	age   time.Duration // 0 for any
	half  uint64        // the sequence in the middle of a stream that is full, else 0
	first time.Time     // when its oldest event was stored
	asked time.Duration

	metadata map[string]string // which say whose events are evicted
}

// retentionOf is what is known of a shard's stream, and whether that is so since less than
// within.
func (h *Hub) retentionOf(shard int, within time.Duration) (r retention, fresh bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	r, ok := h.retentions[shard]
	return r, ok && h.now()-r.asked < within
}

// newRetention says how much a stream keeps, as it was at a time.
func newRetention(info *jetstream.StreamInfo, asked time.Duration) retention {
	c, state := info.Config, info.State
	r := retention{most: uint64(max(0, c.MaxMsgsPerSubject)), age: c.MaxAge, first: state.FirstTime, asked: asked, metadata: c.Metadata}
	if c.MaxBytes > 0 && state.Bytes > uint64(c.MaxBytes)/10*9 {
		r.half = state.FirstSeq + (state.LastSeq-state.FirstSeq)/2
	}
	return r
}

// forgets says whether the log was near forgetting events of the application when it sent
// this one: what stands behind it may be gone before it is sent. JetStream's number of
// events behind it is wrong where it has skipped some, hence the half.
func (r retention) forgets(from origin, now time.Time) bool {
	return r.most > 0 && 2*(from.pending+1) >= r.most ||
		from.sequence < r.half ||
		r.age > 0 && now.UnixNano()-from.stored >= int64(r.age-retentionMargin)
}

// retentionMargin is how near the end of their time events are at risk.
const retentionMargin = time.Second

// riskEvery is the least time between two gaps that a live group is told of.
const riskEvery = 5 * time.Second

// learnLimits finds out how much the group's stream keeps, unless that is known since less
// than within: each stream is asked for once in a while, not for each group.
func (h *Hub) learnLimits(ctx context.Context, g *Group, within time.Duration) error {
	known, fresh := h.retentionOf(g.subject.shard, within)
	if !fresh {
		err := h.request(ctx, g, func(ctx context.Context) error {
			if known, fresh = h.retentionOf(g.subject.shard, within); fresh {
				return nil // another group has asked while this one waited
			}
			s, err := h.js.Stream(ctx, g.subject.stream)
			if err != nil {
				return fmt.Errorf("ask for stream %s: %w", g.subject.stream, err)
			}
			known = newRetention(s.CachedInfo(), h.now())
			h.mu.Lock()
			h.retentions[g.subject.shard] = known
			h.mu.Unlock()
			return nil
		})
		if err != nil {
			return err
		}
	}
	g.mu.Lock()
	g.retention = known
	g.seen.evicted = stream.Evicted(known.metadata, g.key.Application)
	g.mu.Unlock()
	return nil
}

// streamOf says which stream the group's is now, and the sequence of its oldest event.
func (h *Hub) streamOf(ctx context.Context, g *Group) (log event.Log, first uint64, err error) {
	err = h.request(ctx, g, func(ctx context.Context) error {
		s, err := h.js.Stream(ctx, g.subject.stream)
		if err != nil {
			return fmt.Errorf("ask for stream %s: %w", g.subject.stream, err)
		}
		info := s.CachedInfo()
		log, first = event.LogOf(info.Created), max(1, info.State.FirstSeq)
		return nil
	})
	return log, first, err
}

// tell says to the group's next member that events may be missing between two sequences.
func (h *Hub) tell(g *Group, reason string, after, before uint64) {
	h.stats.gaps.Inc()
	h.log.Warn("events of a group are gone, or may be", zap.Stringer("group", g.key), zap.String("reason", reason),
		zap.Uint64("after", after), zap.Uint64("before", before))
	log := g.log()
	gap := event.Gap{
		Application: g.key.Application, Reason: reason, At: time.Now(),
		Before: event.Cursor{Log: log, Sequence: before},
	}
	if reason != event.GapLog {
		gap.After = event.Cursor{Log: log, Sequence: after}
	}
	g.mu.Lock()
	g.rotation.say(gap)
	g.schedule()
}

// oldest is the sequence of the application's oldest event in its stream, 0 if there is
// none. The leader answers.
func (h *Hub) oldest(ctx context.Context, g *Group) (uint64, error) {
	var answer struct {
		Message struct {
			Sequence uint64 `json:"seq"`
		} `json:"message"`
		Error *jetstream.APIError `json:"error"`
	}
	query := struct {
		Sequence uint64 `json:"seq"`
		Subject  string `json:"next_by_subj"`
	}{1, g.subject.filter}
	if err := h.ask(ctx, g, "$JS.API.STREAM.MSG.GET."+g.subject.stream, query, &answer); err != nil {
		return 0, fmt.Errorf("ask for the oldest event: %w", err)
	}
	if answer.Error != nil && answer.Error.ErrorCode != errCodeNoMessageFound {
		return 0, fmt.Errorf("ask for the oldest event: %w", answer.Error)
	}
	return answer.Message.Sequence, nil
}

// ask sends a request of the JetStream API.
func (h *Hub) ask(ctx context.Context, g *Group, to string, query, answer any) error {
	body, err := json.Marshal(query)
	if err != nil {
		return err
	}
	return h.request(ctx, g, func(ctx context.Context) error {
		msg, err := h.js.Conn().RequestWithContext(ctx, to, body)
		if err != nil {
			return err
		}
		return json.Unmarshal(msg.Data, answer)
	})
}

func apiCode(err error) jetstream.ErrorCode {
	var js jetstream.JetStreamError
	if errors.As(err, &js) && js.APIError() != nil {
		return js.APIError().ErrorCode
	}
	return 0
}
