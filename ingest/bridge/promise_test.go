package bridge

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"canopy/shared/subject"
)

// admin gives an admin client, and a context for what it does.
func (w *world) admin() (*kadm.Client, context.Context) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	w.t.Cleanup(cancel)
	return kadm.NewClient(w.prod), ctx
}

// eventIDs is the ids of the events in msgs, in their order.
func eventIDs(t *testing.T, msgs []jetstream.Msg) []int {
	t.Helper()
	var list []int
	for _, m := range msgs {
		_, id, _ := bytes.Cut(m.Data(), []byte(`"id":"`))
		id, _, _ = bytes.Cut(id, []byte(`"`))
		n, err := strconv.Atoi(string(id))
		if err != nil {
			t.Fatalf("event %s: %v", m.Data(), err)
		}
		list = append(list, n)
	}
	return list
}

// upTo is 0 to n-1, as fmt prints it.
func upTo(n int) string {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return fmt.Sprint(list)
}

func TestCrashOutsideTheDuplicateWindowRepeatsInOrderAndLosesNothing(t *testing.T) {
	t.Parallel()
	const n = 500
	w := newWorld(t, kfake.SeedTopics(1, "events-foo"))
	refused := w.refuseCommits()
	var rs []*kgo.Record
	for k := range n {
		rs = append(rs, eventRecord("events-foo", 0, k, `{}`))
	}
	w.produce(rs...)
	cfg := w.config()
	cfg.Ingest.Duplicates = 100 * time.Millisecond
	first := w.run(cfg)
	eventually(t, patience, "all is stored", func() bool { return w.count() == n })
	<-refused
	first.stop()
	if at := w.committed("events-foo", 0); at != -1 {
		t.Fatalf("committed %d: the fault did not happen", at)
	}
	// The window is over when the stream takes an id again that it had.
	expired := w.streamForgets("foo", cfg.Ingest.Shards)
	second := w.run(cfg)
	eventually(t, patience, "all is stored again", func() bool { return w.count() == 2*n+expired })
	second.stop()
	got := eventIDs(t, w.stored("foo", cfg.Ingest.Shards))
	if a, b := fmt.Sprint(got[:n]), fmt.Sprint(got[n:]); a != upTo(n) || b != upTo(n) {
		t.Errorf("stored %s, and again %s", a, b)
	}
}

func TestPartitionsThatAreAddedAreReadFromTheirStartWithinTenSeconds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kfake.SeedTopics(1, "events-foo"))
	cfg := w.config()
	i := w.run(cfg)
	load := w.load("events-foo", 1, 5, 10*time.Millisecond)
	eventually(t, patience, "records flow", func() bool { return w.count() > 50 })
	adm, ctx := w.admin()
	if _, err := adm.CreatePartitions(ctx, 2, "events-foo"); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	const n = 20
	prod := w.producer()
	for k := range n {
		if err := prod.ProduceSync(ctx, eventRecord("events-foo", 1, k, `{}`), eventRecord("events-foo", 2, k, `{}`)).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 10*time.Second-time.Since(begin), "the new partitions are read", func() bool {
		return i.metric("canopy_ingest_partitions") == 3 && w.committed("events-foo", 1) == n && w.committed("events-foo", 2) == n
	})
	t.Logf("read and committed after %v", time.Since(begin))
	m := load.finish(t)
	eventually(t, patience, "everything is stored", func() bool { return w.count() == m+2*n })
	i.stop()
	got := ids(t, w.stored("foo", cfg.Ingest.Shards))
	for partition, want := range map[string]int{"events-foo/0": m, "events-foo/1": n, "events-foo/2": n} {
		if fmt.Sprint(got[partition]) != upTo(want) {
			t.Errorf("%s: stored %v", partition, got[partition])
		}
	}
}

func TestTopicThatIsDeletedDisturbsNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kfake.SeedTopics(1, "events-gone", "events-foo"))
	cfg := w.config()
	i := w.run(cfg)
	load := w.load("events-foo", 1, 5, 10*time.Millisecond)
	w.produce(eventRecord("events-gone", 0, 0, `{}`))
	eventually(t, patience, "both are read", func() bool {
		return w.committed("events-gone", 0) == 1 && w.committed("events-foo", 0) > 50
	})
	adm, ctx := w.admin()
	if _, err := adm.DeleteTopic(ctx, "events-gone"); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "it is let go", func() bool {
		return i.metric("canopy_ingest_partitions") == 1
	})
	errorsBefore := i.metric("canopy_ingest_fetch_errors_total")
	at := w.committed("events-foo", 0)
	eventually(t, patience, "the other goes on", func() bool { return w.committed("events-foo", 0) > at+200 })
	if n := i.metric("canopy_ingest_fetch_errors_total") - errorsBefore; n > 50 {
		t.Errorf("%v errors since: it is still asked for", n)
	}
	m := load.finish(t)
	eventually(t, patience, "everything is stored", func() bool { return w.count() == m+1 })
	i.stop()
	checkOrder(t, w.stored("foo", cfg.Ingest.Shards), 1, m)
}

// kafkaAway is for how long Kafka is away in the test of it.
const kafkaAway = 3 * time.Second

func TestNothingIsLostWhenKafkaIsAway(t *testing.T) {
	t.Parallel()
	const partitions, each = 3, 300
	dir := t.TempDir()
	w := newWorld(t, kfake.SeedTopics(partitions, "events-foo"), kfake.DataDir(dir))
	addr := w.kafka.ListenAddrs()[0]
	cfg := w.config()
	i := w.run(cfg)
	produce := func(from int) {
		for k := from; k < from+each; k++ {
			w.produce(eventRecord("events-foo", 0, k, `{}`), eventRecord("events-foo", 1, k, `{}`), eventRecord("events-foo", 2, k, `{}`))
		}
	}
	produce(0)
	eventually(t, patience, "records flow", func() bool { return w.count() > each })
	w.kafka.Close()
	away := time.Now()
	eventually(t, kafkaAway+20*time.Second, "Kafka is away for some time", func() bool {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = conn.Close()
			t.Fatal("Kafka is not away")
		}
		return time.Since(away) > kafkaAway
	})
	w.reopenKafka(addr, dir)
	begin := time.Now()
	produce(each)
	eventually(t, patience, "everything is stored", func() bool { return w.count() >= 2*each*partitions })
	t.Logf("away for %v; all stored %v after it was back", begin.Sub(away), time.Since(begin))
	eventually(t, patience, "and committed", func() bool {
		return w.committed("events-foo", 0) == 2*each && w.committed("events-foo", 1) == 2*each && w.committed("events-foo", 2) == 2*each
	})
	i.stop()
	checkOrder(t, w.stored("foo", cfg.Ingest.Shards), partitions, 2*each)
}

// reopenKafka starts a broker at addr with the data in dir.
func (w *world) reopenKafka(addr, dir string) {
	w.t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(1), kfake.DataDir(dir),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) { return net.Listen(network, addr) }))
	if err != nil {
		w.t.Fatal(err)
	}
	w.kafka = cluster
	w.t.Cleanup(cluster.Close)
}

func TestOffsetsThatRetentionOvertakesWhileIngestWaitsAreCountedAndAlarmed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kfake.SeedTopics(1, "events-foo"))
	core, logs := observer.New(zap.InfoLevel)
	cfg := w.config()
	cfg.Ingest.Window = config64
	i := w.run(cfg, zap.New(core))
	w.produce(eventRecord("events-foo", 0, 0, `{}`))
	eventually(t, patience, "records flow", func() bool { return w.count() == 1 })
	w.nats.Down()
	body := `"` + strings.Repeat("x", 4000) + `"`
	const n, start = 6000, 5000 // more than one fetch, so that ingest cannot have it all
	var rs []*kgo.Record
	for k := 1; k < n; k++ {
		rs = append(rs, eventRecord("events-foo", 0, k, body))
	}
	w.produce(rs...)
	eventually(t, patience, "the window is full", func() bool {
		return i.metric("canopy_ingest_window_records") == float64(config64.Records)
	})
	adm, ctx := w.admin()
	var to kadm.Offsets
	to.Add(kadm.Offset{Topic: "events-foo", Partition: 0, At: start, LeaderEpoch: -1})
	if _, err := adm.DeleteRecords(ctx, to); err != nil {
		t.Fatal(err)
	}
	w.nats.Up()
	eventually(t, patience, "what is left is committed", func() bool { return w.committed("events-foo", 0) == n })
	lost := i.metric("canopy_ingest_records_lost_total")
	i.stop()
	got := ids(t, w.stored("foo", cfg.Ingest.Shards))["events-foo/0"]
	if len(got) >= n {
		t.Fatal("nothing was lost: the fault did not happen")
	}
	if int(lost) != n-len(got) {
		t.Errorf("%v counted as lost, but %d are", lost, n-len(got))
	}
	before := -1
	for _, o := range got {
		if o != before+1 && o != start {
			t.Errorf("offset %d follows %d", o, before)
		}
		before = o
	}
	if logs.FilterMessageSnippet("records are lost").Len() == 0 && logs.FilterMessageSnippet("lost records").Len() == 0 {
		t.Error("the log says nothing of it")
	}
}

// streamForgets waits until app's stream has forgotten the ids of what it holds, and tells
// how many messages that has added: an id that came later is taken twice.
func (w *world) streamForgets(app string, shards int) int {
	w.t.Helper()
	nc, err := nats.Connect(w.nats.URL())
	if err != nil {
		w.t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		w.t.Fatal(err)
	}
	_, ctx := w.admin()
	taken := 0
	eventually(w.t, patience, "the duplicate window is over", func() bool {
		ack, err := js.Publish(ctx, subject.In(subject.Shard(app, shards), "nobody"), nil, jetstream.WithMsgID("probe"))
		if err != nil {
			w.t.Fatal(err)
		}
		if !ack.Duplicate {
			taken++
		}
		return taken == 2
	})
	return taken
}
