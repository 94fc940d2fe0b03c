// Package consume reads Kafka with one consumer group, hands the records on in the order
// of their partitions, and commits what became of them: an offset is committed only when
// every record of its partition before it is stored in JetStream or can never be.
//
//	poll ─► Sink.Take … Sink.Flush        (one goroutine)
//	Partition.Settled ◄── the publisher   (its goroutines)
//	commit every second, and before a partition is given away
//
// How franz-go must be used so that nothing is lost: no partition is revoked between a poll
// and AllowRebalance; no lock is held across both a poll and a callback; every commit has a
// deadline of its own; nothing is committed for a partition that has been given away.
package consume

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"canopy/ingest/internal/convert"
	"canopy/ingest/internal/publish"
	"canopy/shared/config"
)

const (
	// handOver is how many records go to the sink between two flushes.
	handOver = 512

	commitEvery   = time.Second
	commitTimeout = 5 * time.Second
	revokeWait    = 3 * time.Second
	drainWait     = 10 * time.Second
	lookEvery     = 5 * time.Second
	lookTimeout   = 4 * time.Second
	errorPause    = 100 * time.Millisecond

	// unknownFor is how long Kafka must not know a topic by its id before that counts as
	// deleted: for a moment it is so after a topic has been made. After unknownUntil that
	// moment was another one.
	unknownFor   = time.Second
	unknownUntil = 30 * time.Second
)

// Record is one record of Kafka. Its slices may not be kept.
type Record struct {
	convert.Record

	// Partition is to be told by Settled(Index, …) what became of the record.
	Partition *Partition
	Index     uint64

	Number int32 // of the partition
	Offset int64

	// Incarnation tells a topic from an earlier one of the same name; empty if the
	// brokers do not say.
	Incarnation string
}

// Sink takes the records. Take and Flush are called from one goroutine; Forget from others.
type Sink interface {
	// Take takes one record; it must not block. It, or somebody later, settles it.
	Take(Record)

	// Flush is called after some calls of Take, and always after the last one for now.
	Flush()

	// Forget settles what was taken of the owner, as far as it can still be stopped.
	Forget(publish.Owner)
}

// Consumer reads Kafka. Run is called once; Check from any goroutine.
type Consumer struct {
	cfg     config.Ingest
	log     *zap.Logger
	sink    Sink
	metrics *metrics
	limit   *rate.Limiter
	opts    []kgo.Opt
	plain   []kgo.Opt // the same without a group
	client  *kgo.Client

	window     *window
	partitions assigned
	committing sync.Mutex // one commit at a time, and none while partitions go away
	lastAnswer atomic.Int64
	draining   atomic.Bool

	// For the poll goroutine.
	unknown map[string]time.Time // topics that Kafka has not known by their id, since when
	waiting []fetched            // polled and not handed over, for want of room
	headers []convert.Header
}

// fetched is a polled record on its way to the sink.
type fetched struct {
	record      *kgo.Record
	partition   *Partition
	incarnation string
}

// New makes a consumer; it does not connect. Its errors are mistakes in the configuration.
func New(kafka config.Kafka, cfg config.Ingest, sink Sink, log *zap.Logger, reg prometheus.Registerer) (*Consumer, error) {
	c := &Consumer{
		cfg:     cfg,
		log:     log,
		sink:    sink,
		unknown: make(map[string]time.Time),
		limit:   rate.NewLimiter(1, 5),
		window:  newWindow(cfg.Window.Records, cfg.Window.Bytes),
	}
	var err error
	if c.plain, err = connectionOptions(kafka); err != nil {
		return nil, err
	}
	group, err := groupOptions(cfg)
	if err != nil {
		return nil, err
	}
	c.plain = append(c.plain, kgo.WithLogger(kafkaLog{log}))
	c.opts = append(slices.Concat(c.plain, group),
		kgo.OnPartitionsAssigned(c.onAssigned),
		kgo.OnPartitionsRevoked(c.onRevoked),
		kgo.OnPartitionsLost(c.onLost),
	)
	if err := kgo.ValidateOpts(c.opts...); err != nil {
		return nil, fmt.Errorf("make Kafka client: %w", err)
	}
	c.metrics = newMetrics(reg, c)
	return c, nil
}

// Check is a readiness check: an error if Kafka has not answered for some time.
func (c *Consumer) Check() error {
	if last := c.lastAnswer.Load(); time.Since(time.UnixMilli(last)) > 3*lookEvery {
		return errors.New("no answer from Kafka")
	}
	return nil
}

// Run reads until ctx ends. Then it polls no more, waits up to 10 s for what is under way
// to be settled, commits, leaves the group and returns nil. The sink must go on working
// until then.
func (c *Consumer) Run(ctx context.Context) error {
	if err := c.startAtEnd(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if err := c.connect(); err != nil {
		return err
	}
	defer c.client.CloseAllowingRebalance()
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var side sync.WaitGroup
	defer side.Wait()
	defer stop()
	side.Go(func() { every(background, commitEvery, c.commitDue) })
	side.Go(func() { c.look(background); every(background, lookEvery, func() { c.look(background) }) })

	for ctx.Err() == nil {
		c.step(ctx)
	}
	c.drain()
	return nil
}

// connect makes the client, which joins the group by itself.
func (c *Consumer) connect() error {
	c.committing.Lock() // a callback that commits waits for the client
	defer c.committing.Unlock()
	client, err := kgo.NewClient(c.opts...)
	if err != nil {
		return fmt.Errorf("make Kafka client: %w", err)
	}
	c.client = client
	return nil
}

func every(ctx context.Context, d time.Duration, do func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			do()
		}
	}
}

// step polls once if everything polled before has been handed over, and hands over what
// there is room for.
func (c *Consumer) step(ctx context.Context) {
	if len(c.waiting) == 0 {
		if room := c.window.free(); room > 0 {
			c.poll(ctx, room)
		}
	}
	if c.handOver(); len(c.waiting) > 0 || c.window.free() == 0 {
		select {
		case <-ctx.Done():
		case <-c.window.room:
		}
	}
}

// poll takes up to n records, which no window holds yet. They are in memory anyhow: they
// were one fetch.
func (c *Consumer) poll(ctx context.Context, n int) {
	fetches := c.client.PollRecords(ctx, n)
	failed := false
	c.waiting = c.waiting[:0]
	for _, f := range fetches {
		for i := range f.Topics {
			t := &f.Topics[i]
			incarnation := ""
			if t.TopicID != ([16]byte{}) {
				incarnation = hex.EncodeToString(t.TopicID[:4])
			}
			for j := range t.Partitions {
				failed = c.fetched(t.Topic, incarnation, &t.Partitions[j]) || failed
			}
		}
	}
	// What was polled is safe from here on: a partition that goes away is closed, and
	// takes no more.
	c.client.AllowRebalance()
	c.healTopics(fetches)
	if failed && len(c.waiting) == 0 {
		select { // franz-go returns some errors as fast as it is asked
		case <-ctx.Done():
		case <-time.After(errorPause):
		}
	}
}

// fetched notes what was polled of one partition. It is true if that is an error.
func (c *Consumer) fetched(topic, incarnation string, f *kgo.FetchPartition) (failed bool) {
	if f.Err != nil {
		return c.fetchFailed(topic, f)
	}
	p := c.partitions.get(topic, f.Partition)
	if p == nil {
		return false
	}
	c.lastAnswer.Store(time.Now().UnixMilli())
	delete(c.unknown, topic)
	from := int64(-1)
	if p.isNew() {
		if at, ok := c.client.CommittedOffsets()[topic][f.Partition]; ok {
			from = at.Offset
		}
	}
	if lost := p.saw(f.LogStartOffset, f.HighWatermark, from); lost > 0 {
		c.metrics.lost.Add(float64(lost))
		c.log.Error("Kafka's retention has overtaken ingest: records are lost", zap.String("topic", topic),
			zap.Int32("partition", f.Partition), zap.Int64("offsets", lost), zap.Int64("until", f.LogStartOffset))
	}
	for _, r := range f.Records {
		c.waiting = append(c.waiting, fetched{r, p, incarnation})
	}
	return false
}

// handOver gives the sink what waits, as far as the window has room.
func (c *Consumer) handOver() {
	n := 0
	for ; n < len(c.waiting); n++ {
		f := &c.waiting[n]
		size := recordSize(f.record)
		if !c.window.fits(size) {
			break
		}
		c.take(f, size)
		*f = fetched{}
		if n%handOver == handOver-1 {
			c.sink.Flush()
		}
	}
	c.sink.Flush()
	if n == len(c.waiting) {
		c.waiting = c.waiting[:0]
		return
	}
	c.waiting = c.waiting[n:]
}

func (c *Consumer) take(f *fetched, size int) {
	r := f.record
	index, ok := f.partition.add(record{offset: r.Offset, epoch: r.LeaderEpoch, bytes: size, time: r.Timestamp})
	if !ok {
		return // it has been given away; its next owner reads the record
	}
	c.metrics.read.Inc()
	c.headers = c.headers[:0]
	for _, h := range r.Headers {
		c.headers = append(c.headers, convert.Header{Key: h.Key, Value: h.Value})
	}
	c.sink.Take(Record{
		Record:    convert.Record{Topic: r.Topic, Key: r.Key, Value: r.Value, Headers: c.headers, Timestamp: r.Timestamp},
		Partition: f.partition, Index: index,
		Number: r.Partition, Offset: r.Offset, Incarnation: f.incarnation,
	})
}

// recordSize is what the window counts a record with; the constant stands for what is
// kept beside its bytes.
func recordSize(r *kgo.Record) int {
	const overhead = 512
	n := overhead + len(r.Key) + len(r.Value)
	for _, h := range r.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}
