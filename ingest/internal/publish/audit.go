package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"canopy/shared/stream"
	"canopy/shared/subject"
)

const (
	auditTimeout  = 500 * time.Millisecond // for one question; where a leader has gone there is a new one soon
	auditPatience = 10 * time.Second       // for all of an audit, and its repetitions
	auditPause    = 50 * time.Millisecond

	// A stream lets events go by their sequence after it has looked at every file of its that
	// holds some of the application, and read those that it does not have in memory.
	purgeTimeout = 20 * time.Second

	shortPause = 10 * time.Millisecond

	// noteWindow is the longest time in which a stream's configuration is read and written again.
	noteWindow = 250 * time.Millisecond

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

// runProofs counts what one lane's applications hold, if nothing is known of that, until ctx
// ends. Audits go on meanwhile.
func (u *auditor) runProofs(ctx context.Context, shard int) {
	l := u.p.lanes[shard]
	for {
		l.mu.Lock()
		a := l.ledger.takeProof()
		l.mu.Unlock()
		if a != nil {
			u.prove(ctx, shard, l, a)
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-l.ledger.prove:
		}
	}
}

// prove makes a proof for the next audit to take over.
func (u *auditor) prove(ctx context.Context, shard int, l *lane, a *account) {
	p := a.proof // nobody takes it before it is done
	found, through, err := u.count(ctx, shard, a, 1, p.to)
	for end := time.Now().Add(auditPatience); err != nil && time.Now().Before(end) && pause(ctx, auditPause) == nil; {
		u.p.metrics.auditErrors.Inc()
		found, through, err = u.count(ctx, shard, a, 1, p.to)
	}
	if err != nil {
		u.failed(ctx, shard, a, err)
	}
	l.mu.Lock()
	p.found, p.through, p.failed = found, through, err != nil
	l.ledger.proved(time.Now(), a)
	l.mu.Unlock()
}

// failed tells that a's share could not be seen to.
func (u *auditor) failed(ctx context.Context, shard int, a *account, err error) {
	if ctx.Err() != nil {
		return
	}
	u.p.metrics.auditErrors.Inc()
	if u.p.limit.Allow() {
		u.p.log.Error("an application's share of its stream could not be seen to: it may evict others' events; trying again",
			zap.String("application", a.application), zap.Int("shard", shard), zap.Error(err))
	}
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
	if err != nil {
		u.failed(ctx, shard, a, err)
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
	g := l.ledger
	g.asked(has.bytes)
	waiting := a.proof != nil
	made := a.takeProof(g.grain)
	estimate = a.holds(has.events)
	again := made == nil && g.needsProof(a, estimate, has.bytes)
	if again && a.through == 0 {
		g.proveLater(a, to, strange)
		again = false
	}
	from := a.through + 1
	l.mu.Unlock()
	if again {
		made = &proof{strange: strange}
		if made.found, made.through, err = u.count(ctx, shard, a, from, to); err != nil {
			return 0, 0, err
		}
		l.mu.Lock()
		made.newer = a.newer
		a.prove(made, g.grain)
		estimate = a.holds(has.events)
		l.mu.Unlock()
	}
	if made != nil && u.short(ctx, l, a, has, made.strange) {
		l.mu.Lock()
		a.unproven()
		l.mu.Unlock()
		return 0, 0, errIncomplete
	}
	l.mu.Lock()
	excess, upTo := a.excess(g.target())
	bytes := a.bytes()
	keep := a.pays(has.events, g.target())
	pays := waiting && a.proof != nil && keep < has.events && bytes-a.paid >= g.step/4 && g.isFull(has)
	l.mu.Unlock()
	switch {
	case estimate >= g.trigger() && excess > 0:
		if err := u.evict(ctx, shard, l, a, "seq", upTo+1); err != nil {
			return 0, 0, err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		a.drop(excess)
		return estimate, a.bytes(), nil
	case pays:
		if err := u.evict(ctx, shard, l, a, "keep", keep); err != nil {
			return 0, 0, err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		a.paid = bytes
	}
	return estimate, estimate, nil
}

// short says whether a stream that was asked after a count holds more of the application than
// that has found and was acknowledged to us since, though nobody else has published to it: a
// replica lags. What others have published, or we in a batch that has failed, stands behind
// the place up to which was counted; the end of our open batch tells that.
func (u *auditor) short(ctx context.Context, l *lane, a *account, has held, strange uint64) bool {
	l.mu.Lock()
	missing := a.events()+int64(l.seq-l.acked) < has.events
	l.mu.Unlock()
	for end := time.Now().Add(maxBatchAge); missing; {
		l.mu.Lock()
		others, ours, open := l.ledger.strange != strange, l.high >= has.last, l.kind != free
		l.mu.Unlock()
		if others || ours || !open || time.Now().After(end) || pause(ctx, shortPause) != nil {
			return ours && !others
		}
	}
	return false
}

// held is what a stream says about itself and one application.
type held struct {
	events int64 // of the application
	bytes  int64 // of all
	last   uint64
	config jetstream.StreamConfig
}

func (u *auditor) ask(ctx context.Context, shard int, a *account) (held, error) {
	var info struct {
		Config jetstream.StreamConfig `json:"config"`
		State  struct {
			Bytes    int64            `json:"bytes"`
			Last     uint64           `json:"last_seq"`
			Subjects map[string]int64 `json:"subjects"`
		} `json:"state"`
	}
	query := map[string]any{"subjects_filter": a.subject}
	if err := u.request(ctx, "INFO", shard, query, &info); err != nil {
		return held{}, err
	}
	return held{info.State.Subjects[a.subject], info.State.Bytes, info.State.Last, info.Config}, nil
}

// note has the stream's metadata say that the application's events are taken out, so that
// edges tell those whom it concerns. Another ingest that read the configuration before it was
// there writes over it, but soon or not at all: so it is read again after that, until it is there.
func (u *auditor) note(ctx context.Context, shard int, a *account) error {
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	for {
		began := time.Now()
		asked, err := u.ask(ctx, shard, a) // it does not wait for long for an answer that is lost
		if err != nil {
			return err
		}
		has := asked.config
		noted, changed := stream.NoteEvicted(has, a.application, time.Now())
		if !changed {
			return nil
		}
		if time.Since(began) > noteWindow {
			continue
		}
		if _, err := u.js.UpdateStream(ctx, noted); err != nil {
			return fmt.Errorf("note an eviction in stream %s: %w", noted.Name, err)
		}
		if !stream.Evicted(has.Metadata, a.application) {
			u.p.log.Warn("an application holds its whole share of its stream: from now on its own oldest events make room",
				zap.String("application", a.application), zap.String("stream", noted.Name))
		}
		if err := pause(ctx, 2*noteWindow); err != nil {
			return fmt.Errorf("note an eviction in stream %s: %w", noted.Name, err)
		}
	}
}

// evict has the stream let the application's events go, before a sequence ("seq") or but for
// so many ("keep"). The first may be said twice, and by several ingests, whatever comes
// meanwhile. It is noted first, for nothing may be gone in silence, and seen to be noted
// afterwards: somebody else's note of the same moment may have come over ours.
func (u *auditor) evict(ctx context.Context, shard int, l *lane, a *account, what string, n any) error {
	if err := u.note(ctx, shard, a); err != nil {
		return err
	}
	l.purges(true)
	purged, err := u.purge(ctx, shard, a, map[string]any{"filter": a.subject, what: n})
	l.purges(false)
	if err != nil {
		return err
	}
	u.p.metrics.evicted.Add(float64(purged))
	return u.note(ctx, shard, a)
}

// purge waits for a stream that answers nobody until it is done. One that answers others has
// not got the request, or its answer is lost.
func (u *auditor) purge(ctx context.Context, shard int, a *account, query any) (purged int64, err error) {
	name := subject.Stream(shard)
	body, err := json.Marshal(query)
	if err != nil {
		return 0, fmt.Errorf("encode a question: %w", err)
	}
	inbox := u.p.nc.NewInbox()
	sub, err := u.p.nc.SubscribeSync(inbox)
	if err != nil {
		return 0, fmt.Errorf("purge stream %s: %w", name, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := u.p.nc.PublishRequest("$JS.API.STREAM.PURGE."+name, inbox, body); err != nil {
		return 0, fmt.Errorf("purge stream %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, purgeTimeout)
	defer cancel()
	patience := auditTimeout
	for others := false; ; {
		m, err := next(ctx, sub, patience)
		if err == nil {
			var done struct {
				Purged int64 `json:"purged"`
			}
			return done.Purged, read(m, "PURGE", name, &done)
		}
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil || others {
			return 0, fmt.Errorf("purge stream %s: %w", name, err)
		}
		if _, err = u.ask(ctx, shard, a); err == nil {
			others, patience = true, auditPause // its answer may be on its way
		}
	}
}

// next gives the next message of sub, if it comes within patience.
func next(ctx context.Context, sub *nats.Subscription, patience time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return sub.NextMsgWithContext(ctx)
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
	return read(m, verb, name, answer)
}

// read reads a stream's answer.
func read(m *nats.Msg, verb, name string, answer any) error {
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
			u.p.metrics.counted.Inc()
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
