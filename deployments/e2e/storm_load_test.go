//go:build linux

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kgo"

	"canopy/bench/drain"
	"canopy/shared/subject"
)

// lane is one partition of an application's topic. Record i of it, counted from 1, carries
// the number i*partitions+partition, as drain.Config.Sequences has it, and must lie at
// Kafka's offset i-1: then the order of numbers at a socket is the order of offsets.
type lane struct {
	application int
	partition   int32
	last        uint64
}

// watch is a fleet with one socket for each application of a range, on one edge.
type watch struct {
	*drain.Fleet
	edge, from, to int // to is the first that has none
}

// stormLoad produces records into all partitions in turn, a few at a time, at a steady pace.
type stormLoad struct {
	w           *world
	client      *kgo.Client
	lanes       []*lane // for the goroutine that produces
	partitions  uint64
	rate, burst int
	bursts      chan int // records to go into the first partition at once

	acked  []atomic.Uint64 // records of each application that Kafka has
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu    sync.Mutex
	fault error // the first
}

// startStormLoad begins to produce rate records a second.
func (w *world) startStormLoad(size stormSize) *stormLoad {
	w.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.kafka), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(loadTick))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(client.Close)
	ctx, cancel := context.WithCancel(context.Background())
	l := &stormLoad{
		w: w, client: client, partitions: uint64(size.partitions), rate: size.perSecond, burst: size.burst,
		bursts: make(chan int), acked: make([]atomic.Uint64, size.applications), cancel: cancel,
	}
	for p := range size.partitions {
		for application := range size.applications {
			l.lanes = append(l.lanes, &lane{application: application, partition: p})
		}
	}
	l.done.Go(func() { l.run(ctx) })
	w.t.Cleanup(func() { l.stop() })
	return l
}

func (l *stormLoad) run(ctx context.Context) {
	tick := time.NewTicker(loadTick)
	defer tick.Stop()
	begin, sent := time.Now(), 0
	for turn := 0; ; {
		select {
		case <-ctx.Done():
			return
		case n := <-l.bursts:
			l.produce(l.lanes[0], n)
		case <-tick.C:
		}
		for due := int(time.Since(begin).Seconds() * float64(l.rate)); sent < due; sent += l.burst {
			l.produce(l.lanes[turn], l.burst)
			turn = (turn + 1) % len(l.lanes)
		}
	}
}

// produce hands the next n records of a lane to the client, which waits while too many of
// them are under way.
func (l *stormLoad) produce(to *lane, n int) {
	for range n {
		to.last++
		i := to.last
		r := l.w.numbered(applicationName(to.application), "", i*l.partitions+uint64(to.partition), 0)
		r.Partition = to.partition
		l.client.Produce(context.Background(), r, func(r *kgo.Record, err error) {
			switch {
			case err != nil:
				l.fail(fmt.Errorf("produce: %w", err))
			case r.Offset != int64(i-1):
				l.fail(fmt.Errorf("record %d of partition %d of %s lies at offset %d", i, r.Partition, r.Topic, r.Offset))
			default:
				l.acked[to.application].Add(1)
			}
		})
	}
}

// in is how many records of the applications from up to, without, to Kafka has.
func (l *stormLoad) in(from, to int) (n uint64) {
	for i := range l.acked[from:to] {
		n += l.acked[from+i].Load()
	}
	return n
}

// all is how many records Kafka has.
func (l *stormLoad) all() uint64 { return l.in(0, len(l.acked)) }

func applicationName(i int) string { return "a" + strconv.Itoa(i) }

func (l *stormLoad) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault == nil {
		l.fault = err
	}
}

// err is what has gone wrong on the way into Kafka, or nil.
func (l *stormLoad) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault
}

// stop ends the load and gives the number of records that Kafka has.
func (l *stormLoad) stop() uint64 {
	l.cancel()
	l.done.Wait()
	if err := l.client.Flush(context.Background()); err != nil {
		l.fail(err)
	}
	return l.all()
}

// openSockets opens as many sockets for each application on each edge, all from the first
// event on, and watches the sequence of each partition on each of them.
func (w *world) openSockets(t *testing.T, edges []*process, size stormSize) (list []*watch) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	open := func(edge, from, to int) {
		f, err := drain.Dial(ctx, drain.Config{
			URL: "ws://" + edges[edge].http + "/" + w.app("a{n}"), Number: from, Sockets: to - from, First: 1,
			Sequences: uint64(size.partitions), HandshakeTimeout: patience,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(f.Close)
		list = append(list, &watch{f, edge, from, to})
	}
	each := size.sockets / size.applications
	whole := each - each%len(edges)
	for i := range whole {
		open(i%len(edges), 0, size.applications)
	}
	for range each - whole { // what does not divide is split by applications
		for i := range edges {
			open(i, size.applications*i/len(edges), size.applications*(i+1)/len(edges))
		}
	}
	return list
}

// explain tells, for events that were not the next ones at a socket, where the stream has
// their records: one that it has twice was published twice.
func (s *storm) explain(wrong []string) {
	for _, p := range append(s.edges, s.ingests...) {
		text := p.text()
		s.t.Logf("%s at %s said last: %s", p.kind, p.health, text[max(0, len(text)-1000):])
	}
	for _, text := range wrong[:min(len(wrong), 4)] {
		var e struct {
			ID, Application, Cursor string
		}
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			s.t.Logf("%s: %v", text, err)
			continue
		}
		s.t.Logf("wrong: %s", text)
		shard := subject.Shard(e.Application, s.size.shards)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c, err := s.cluster.js.OrderedConsumer(ctx, subject.Stream(shard), jetstream.OrderedConsumerConfig{
			FilterSubjects: []string{subject.In(shard, e.Application)},
		})
		if err != nil {
			s.t.Log(err)
			continue
		}
		for pending := uint64(1); pending > 0; {
			m, err := c.Next(jetstream.FetchMaxWait(5 * time.Second))
			if err != nil {
				s.t.Log(err)
				break
			}
			at, err := m.Metadata()
			if err != nil {
				s.t.Log(err)
				break
			}
			pending = at.NumPending
			if bytes.Contains(m.Data(), []byte(`"id":"`+e.ID+`"`)) {
				s.t.Logf("  stored as %d at %v: %v", at.Sequence.Stream, at.Timestamp.Format(time.TimeOnly+".000"), m.Headers())
			}
		}
	}
}
