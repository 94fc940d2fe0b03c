//go:build linux

package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"canopy/deployments/e2e/oracle"
	"canopy/shared/topic"
)

// trialLoad produces records into all partitions in turn, and knows afterwards what Kafka holds.
type trialLoad struct {
	r      *trial
	acked  atomic.Uint64 // records that Kafka has
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	client *kgo.Client
	born   []int           // by application: how often its topic was made
	paused []bool          // by application
	n      int             // records made
	first  error           // what went wrong
	gone   []oracle.Record // of topics that are no more
}

func (r *trial) startTrialLoad() *trialLoad {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &trialLoad{r: r, cancel: cancel, born: make([]int, trialApplications), paused: make([]bool, trialApplications)}
	l.client = l.connect()
	l.done.Go(func() { l.run(ctx) })
	r.t.Cleanup(l.stop)
	return l
}

func (l *trialLoad) connect() *kgo.Client {
	l.r.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(l.r.kafka), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
		kgo.MetadataMinAge(100*time.Millisecond), kgo.UnknownTopicRetries(-1))
	if err != nil {
		l.r.t.Fatal(err)
	}
	return client
}

func (l *trialLoad) run(ctx context.Context) {
	tick := time.NewTicker(loadTick)
	defer tick.Stop()
	begin, sent := time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for due := int(time.Since(begin).Seconds() * trialRate); sent < due; sent++ {
			l.produce(sent)
		}
	}
}

// produce makes one record, for an application that is not paused. Its id tells where it is.
func (l *trialLoad) produce(turn int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	application, partition := turn%trialApplications, turn/trialApplications%trialPartitions
	if l.paused[application] {
		return
	}
	l.n++
	r := l.r.numbered(applicationName(application), "", uint64(l.n), 0)
	r.Partition = int32(partition)
	for i := range r.Headers {
		if r.Headers[i].Key == "ce_id" {
			r.Headers[i].Value = fmt.Appendf(nil, "%s.%d/%d/%d", applicationName(application), l.born[application], partition, l.n)
		}
	}
	l.client.Produce(context.Background(), r, func(r *kgo.Record, err error) {
		if err != nil {
			l.fail(fmt.Errorf("produce: %w", err))
			return
		}
		l.acked.Add(1)
	})
}

func (l *trialLoad) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == nil {
		l.first = err
	}
}

// stop ends the load. It may be called again.
func (l *trialLoad) stop() {
	l.cancel()
	l.done.Wait()
	if l.client == nil {
		return
	}
	if err := l.flush(); err != nil {
		l.fail(err)
	}
	l.client.Close()
	l.client = nil
}

// flush waits until Kafka has everything that was made.
func (l *trialLoad) flush() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := l.client.Flush(ctx); err != nil {
		return fmt.Errorf("wait for Kafka: %w", err)
	}
	return nil
}

// again deletes an application's topic and makes it anew, when somebody has had all that is in it.
func (l *trialLoad) again(application int) (old int, next func() bool) {
	l.r.t.Helper()
	l.mu.Lock()
	l.paused[application] = true
	err := l.flush()
	l.mu.Unlock()
	if err != nil {
		l.r.t.Fatal(err)
	}
	held := l.read([]int{application})
	eventually(l.r.t, "all of the topic has been delivered", func() bool { return l.r.clients.haveAll(held) })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	name := topic.Of(l.r.app(applicationName(application)))
	if _, err := l.r.admin.DeleteTopic(ctx, name); err != nil {
		l.r.t.Fatalf("delete topic: %v", err)
	}
	l.r.makeTopic(applicationName(application), trialPartitions)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.flush(); err != nil {
		l.r.t.Fatal(err)
	}
	l.gone = append(l.gone, held...)
	l.client.Close() // the next one knows the new topic only
	l.client = l.connect()
	l.born[application]++
	l.paused[application] = false
	from := time.Now()
	return len(held), func() bool { return l.r.clients.freshOf(application, from) }
}

// truth is what Kafka holds, and held in topics that are no more.
func (l *trialLoad) truth() *oracle.Truth {
	l.r.t.Helper()
	l.mu.Lock()
	err := l.first
	l.mu.Unlock()
	if err != nil {
		l.r.t.Fatal(err)
	}
	var all []int
	for i := range trialApplications {
		all = append(all, i)
	}
	records := append(l.read(all), l.gone...)
	if acked := int(l.acked.Load()); len(records) < acked {
		l.r.t.Fatalf("Kafka has %d records, but has acknowledged %d", len(records), acked)
	}
	truth, err := oracle.NewTruth(records)
	if err != nil {
		l.r.t.Fatal(err)
	}
	return truth
}

// read gives all records that are in Kafka for some applications.
func (l *trialLoad) read(applications []int) (list []oracle.Record) {
	l.r.t.Helper()
	names := map[string]int{}
	for _, i := range applications {
		names[topic.Of(l.r.app(applicationName(i)))] = i
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	topics := slices.Sorted(maps.Keys(names))
	ends, err := l.r.admin.ListEndOffsets(ctx, topics...)
	if err != nil {
		l.r.t.Fatalf("ask for the ends of topics: %v", err)
	}
	left := 0
	for _, partitions := range ends {
		for _, end := range partitions {
			left += int(end.Offset)
		}
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(l.r.kafka), kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		l.r.t.Fatal(err)
	}
	defer client.Close()
	for left > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			l.r.t.Fatalf("read topics, %d records left: %v", left, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			left--
			list = append(list, l.recordOf(r, names[r.Topic]))
		})
	}
	return list
}

// recordOf is what the oracle needs to know of an entry of Kafka.
func (l *trialLoad) recordOf(r *kgo.Record, application int) oracle.Record {
	one := oracle.Record{Application: l.r.app(applicationName(application)), Offset: r.Offset, Sum: oracle.Sum(r.Value)}
	for _, h := range r.Headers {
		if h.Key == "ce_id" {
			one.ID = string(h.Value)
		}
	}
	born, _, _ := strings.Cut(one.ID, "/")
	one.Lane = born + "/" + strconv.Itoa(int(r.Partition))
	var n, at int64
	if _, err := fmt.Sscanf(string(r.Value), `{"n":%d,"at":%d`, &n, &at); err != nil {
		l.r.t.Fatalf("record %s: %v", r.Value, err)
	}
	one.Made = time.Unix(0, at)
	return one
}
