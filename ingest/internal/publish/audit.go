package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"canopy/shared/stream"
	"canopy/shared/subject"
)

const (
	auditTimeout  = 500 * time.Millisecond // for one question; where a leader has gone there is a new one soon
	auditPatience = 10 * time.Second       // for all of an audit, and its repetitions
	auditPause    = 50 * time.Millisecond

	// Counting a stream's events costs about 5 µs of the server and as much here for each.
	countTimeout = 20 * time.Second
	countsAtOnce = 2
	countBatch   = 512
	countKept    = 2 * time.Second // for which the server keeps a consumer that is done
)

// errIncomplete says that who was asked for events gave fewer than there are: a replica lags.
var errIncomplete = errors.New("not all events could be counted")

// auditor sees to it that no application holds more than its share of its stream. It asks
// the stream how many events of an application it holds when ours have grown by enough to
// matter, makes certain of their bytes where others have published, too, and has the stream
// let the oldest go.
type auditor struct {
	p      *Publisher
	js     jetstream.JetStream
	counts chan struct{}
}

// run audits one lane's applications until ctx ends.
func (u *auditor) run(ctx context.Context, shard int) {
	l := u.p.lanes[shard]
	for {
		l.mu.Lock()
		a := l.ledger.take()
		l.mu.Unlock()
		if a != nil {
			u.audit(ctx, shard, l, a)
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-l.ledger.wake:
		}
	}
}

func (u *auditor) audit(ctx context.Context, shard int, l *lane, a *account) {
	l.mu.Lock()
	to, strange := l.high, l.ledger.strange
	grown := a.begin()
	l.mu.Unlock()
	estimate, rest, err := u.enforce(ctx, shard, l, a, to, strange)
	for end := time.Now().Add(auditPatience); err != nil && time.Now().Before(end) && pause(ctx, auditPause) == nil; {
		u.p.metrics.auditErrors.Inc()
		estimate, rest, err = u.enforce(ctx, shard, l, a, to, strange)
	}
	l.mu.Lock()
	now := time.Now()
	if err == nil {
		l.ledger.end(now, a, grown, estimate, rest)
	} else {
		l.ledger.failed(now, a)
	}
	l.mu.Unlock()
	l.wakeUp()
	if err != nil && ctx.Err() == nil {
		u.p.metrics.auditErrors.Inc()
		if u.p.limit.Allow() {
			u.p.log.Error("an application's share of its stream could not be seen to: it may evict others' events; trying again",
				zap.String("application", a.application), zap.Int("shard", shard), zap.Error(err))
		}
	}
}

// enforce finds out what a holds, and evicts what is too much. Our events up to sequence to
// have been acknowledged. It says what a held before and holds after.
func (u *auditor) enforce(ctx context.Context, shard int, l *lane, a *account, to, strange uint64) (estimate, rest int64, err error) {
	has, err := u.ask(ctx, shard, a)
	if err != nil {
		return 0, 0, err
	}
	l.mu.Lock()
	estimate = a.holds(has.events)
	proof, from := l.ledger.needsProof(a, estimate, has.bytes), a.through+1
	l.mu.Unlock()
	if proof {
		found, through, err := u.count(ctx, shard, a, from, to)
		if err != nil {
			return 0, 0, err
		}
		l.mu.Lock()
		a.prove(found, max(through, from-1), strange, l.ledger.grain)
		estimate = a.holds(has.events)
		short := l.ledger.strange == strange && a.events()+int64(l.seq-l.acked) < has.events
		if short {
			a.unproven()
		}
		l.mu.Unlock()
		if short {
			return 0, 0, errIncomplete
		}
	}
	l.mu.Lock()
	excess, upTo := a.excess(l.ledger.target())
	over := estimate >= l.ledger.trigger() && excess > 0
	l.mu.Unlock()
	if !over {
		return estimate, estimate, nil
	}
	if err := u.note(ctx, shard, has.config, a); err != nil {
		return 0, 0, err
	}
	evicted, err := u.evict(ctx, shard, a, upTo)
	if err != nil {
		return 0, 0, err
	}
	u.p.metrics.evicted.Add(float64(evicted))
	l.mu.Lock()
	defer l.mu.Unlock()
	a.drop(excess)
	return estimate, a.bytes(), nil
}

// held is what a stream says about itself and one application.
type held struct {
	events int64 // of the application
	bytes  int64 // of all
	config jetstream.StreamConfig
}

func (u *auditor) ask(ctx context.Context, shard int, a *account) (held, error) {
	var info struct {
		Config jetstream.StreamConfig `json:"config"`
		State  struct {
			Bytes    int64            `json:"bytes"`
			Subjects map[string]int64 `json:"subjects"`
		} `json:"state"`
	}
	query := map[string]any{"subjects_filter": a.subject}
	if err := u.request(ctx, "INFO", shard, query, &info); err != nil {
		return held{}, err
	}
	return held{info.State.Subjects[a.subject], info.State.Bytes, info.Config}, nil
}

// note has the stream's metadata say that the application's events are taken out, so that
// edges tell those whom it concerns. That comes first: nothing may be gone in silence.
func (u *auditor) note(ctx context.Context, shard int, has jetstream.StreamConfig, a *account) error {
	if _, changed := stream.NoteEvicted(has, a.application, time.Now()); !changed {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	there, err := u.js.Stream(ctx, subject.Stream(shard)) // somebody may just have changed it
	if err != nil {
		return fmt.Errorf("read stream %s: %w", subject.Stream(shard), err)
	}
	noted, _ := stream.NoteEvicted(there.CachedInfo().Config, a.application, time.Now())
	if _, err := u.js.UpdateStream(ctx, noted); err != nil {
		return fmt.Errorf("note an eviction in stream %s: %w", noted.Name, err)
	}
	u.p.log.Warn("an application holds its whole share of its stream: from now on its own oldest events make room",
		zap.String("application", a.application), zap.String("stream", noted.Name))
	return nil
}

// evict has the stream let the application's events go up to a sequence. That may be said
// twice, and by several ingests, whatever comes meanwhile.
func (u *auditor) evict(ctx context.Context, shard int, a *account, upTo uint64) (evicted int64, err error) {
	var done struct {
		Purged int64 `json:"purged"`
	}
	query := map[string]any{"filter": a.subject, "seq": upTo + 1}
	if err := u.request(ctx, "PURGE", shard, query, &done); err != nil {
		return 0, err
	}
	return done.Purged, nil
}

// request asks a stream's leader.
func (u *auditor) request(ctx context.Context, verb string, shard int, query, answer any) error {
	name := subject.Stream(shard)
	body, err := json.Marshal(query)
	if err != nil {
		return fmt.Errorf("encode a question: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	m, err := u.p.nc.RequestWithContext(ctx, "$JS.API.STREAM."+verb+"."+name, body)
	if err != nil {
		return fmt.Errorf("ask $JS.API.STREAM.%s.%s: %w", verb, name, err)
	}
	var failed struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &failed); err == nil && failed.Error != nil {
		return fmt.Errorf("ask $JS.API.STREAM.%s.%s: %w", verb, name, failed.Error)
	}
	if err := json.Unmarshal(m.Data, answer); err != nil {
		return fmt.Errorf("read the answer of $JS.API.STREAM.%s.%s: %w", verb, name, err)
	}
	return nil
}

// count reads the headers of the application's events from one sequence to another, and
// gives that of the last one. The replica that it reads from may not have those behind yet:
// they are counted the next time.
func (u *auditor) count(ctx context.Context, shard int, a *account, from, to uint64) (found run, through uint64, err error) {
	select {
	case u.counts <- struct{}{}:
	case <-ctx.Done():
		return run{}, 0, ctx.Err()
	}
	defer func() { <-u.counts }()
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	u.p.metrics.counts.Inc()
	c, err := u.js.CreateConsumer(ctx, subject.Stream(shard), jetstream.ConsumerConfig{
		FilterSubject: a.subject, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
		AckPolicy: jetstream.AckNonePolicy, HeadersOnly: true, MemoryStorage: true, Replicas: 1, InactiveThreshold: countKept,
	})
	if err != nil {
		return run{}, 0, fmt.Errorf("count events in stream %s: %w", subject.Stream(shard), err)
	}
	grain := u.p.lanes[shard].ledger.grain
	for more := c.CachedInfo().NumPending > 0; more; {
		batch, err := c.FetchNoWait(countBatch)
		if err != nil {
			return run{}, 0, fmt.Errorf("count events in stream %s: %w", subject.Stream(shard), err)
		}
		more = false
		some := false
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return run{}, 0, fmt.Errorf("count events in stream %s: %w", subject.Stream(shard), err)
			}
			if some = true; meta.Sequence.Stream > to {
				more = false
				continue
			}
			found.add(part{1, storedSize(m), meta.Sequence.Stream}, grain)
			through, more = meta.Sequence.Stream, meta.NumPending > 0
		}
		err = errors.Join(batch.Error(), ctx.Err())
		if !some && err == nil {
			err = errIncomplete
		}
		if err != nil {
			return run{}, 0, fmt.Errorf("count events in stream %s: %w", subject.Stream(shard), err)
		}
	}
	return found, through, nil
}

// storedSize is how many bytes an event counts for in its stream that was read without its
// body.
func storedSize(m jetstream.Msg) int64 {
	size := int64(len(m.Subject()) + recordOverhead + len("NATS/1.0\r\n") + len("\r\n"))
	for k, vs := range m.Headers() {
		for _, v := range vs {
			if k == "Nats-Msg-Size" {
				n, _ := strconv.ParseInt(v, 10, 64)
				size += n
				continue
			}
			size += int64(len(k) + len(": \r\n") + len(v))
		}
	}
	return size
}
