//go:build linux

package e2e

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"canopy/shared/natstest"
	"canopy/shared/topic"
)

func TestSocketsMissNothingAndGetNothingTwiceWhenOneOfSeveralIngestsIsKilled(t *testing.T) {
	const partitions, kills = 6, 4
	w := newWorld(t, setup{public: map[string]int32{"one": partitions}})
	ingests := []*process{w.startChild(w.natsURL), w.startChild(w.natsURL), w.startChild(w.natsURL)}
	w.startEdge(w.natsURL)
	var sources []source
	for p := range int32(partitions) {
		sources = append(sources, source{"one", p, fmt.Sprint("channel-", p)})
	}
	c := w.gather(sources)
	load := w.startLoad(rate/3, 0, sources...)
	has := func(i int) float64 { return w.metric(ingests[i].health, "canopy_ingest_partitions") }
	for n := range kills {
		eventually(t, "every ingest has its share", func() bool {
			return has(0) == partitions/3 && has(1) == partitions/3 && has(2) == partitions/3
		})
		c.awaitMore(100)
		eventually(t, "events wait for a commit", func() bool { return c.uncommitted() > 10 })
		i := n % len(ingests)
		if !ingests[i].kill() {
			t.FailNow()
		}
		left := []int{(i + 1) % 3, (i + 2) % 3}
		eventually(t, "the others have its partitions", func() bool { return has(left[0])+has(left[1]) == partitions })
		c.awaitMore(50)
		ingests[i] = w.startChild(w.natsURL)
	}
	c.awaitMore(100)
	c.expectAll(load.stop())
}

// order is the ids of the records of one partition, in some order.
type order map[int32][]string

func TestSocketSeesEveryPartitionInTheOrderOfKafka(t *testing.T) {
	const partitions, producers, each = 3, 8, 150
	w := newWorld(t, setup{public: map[string]int32{"one": partitions}})
	var deaf atomic.Bool
	proxy := natstest.StartProxy(t, w.natsURL, func(string) bool { return deaf.Load() })
	w.startIngest(proxy.URL())
	w.startEdge(w.natsURL)
	socket := w.open(w.path("one", ""), nil)
	// Many write to the same partitions, so that only Kafka says what the order is.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var written atomic.Int64
	var writers sync.WaitGroup
	defer writers.Wait()
	for producer := range producers {
		writers.Go(func() {
			for n := range each {
				for p := range int32(partitions) {
					r := w.numbered("one", fmt.Sprint(p), uint64(n), 0)
					r.Partition = p
					r.Headers[1].Value = fmt.Appendf(nil, "%d/%d/%d", p, producer, n)
					if err := w.client.ProduceSync(ctx, r).FirstErr(); err != nil {
						t.Errorf("produce: %v", err)
						return
					}
					written.Add(1)
				}
			}
		})
	}
	for round := range int64(3) {
		eventually(t, "records flow", func() bool { return written.Load() > (round+1)*partitions*producers*each/5 })
		deaf.Store(true) // acknowledgements are lost, and then the connection
		lost := proxy.Dropped()
		eventually(t, "an acknowledgement is lost", func() bool { return proxy.Dropped() > lost })
		proxy.Cut()
		deaf.Store(false)
	}
	got := order{}
	for range partitions * producers * each {
		e := decode(t, read(t, socket))
		var p int32
		if _, err := fmt.Sscan(e["subject"].(string), &p); err != nil {
			t.Fatal(err)
		}
		got[p] = append(got[p], e["id"].(string))
	}
	want := w.readTopic("one", partitions*producers*each)
	interleaved := false
	for p := range int32(partitions) {
		if fmt.Sprint(got[p]) != fmt.Sprint(want[p]) {
			t.Errorf("partition %d: got %v, want %v", p, got[p], want[p])
		}
		for n := range producers {
			interleaved = interleaved || want[p][n][:4] != want[p][0][:4]
		}
	}
	if !interleaved {
		t.Error("the producers did not write at the same time")
	}
	if n := w.metric(w.ingest.IngestHealth, "canopy_ingest_duplicates_total"); n == 0 {
		t.Error("nothing that was stored has been published again: the fault did not happen")
	}
}

// readTopic reads what Kafka holds of an application: n records.
func (w *world) readTopic(name string, n int) order {
	w.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.kafka), kgo.ConsumeTopics(topic.Of(w.app(name))), kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		w.t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	list := order{}
	for n > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			w.t.Fatalf("read the topic: %v", err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			list[r.Partition] = append(list[r.Partition], string(r.Headers[1].Value))
			n--
		})
	}
	return list
}
