package bridge

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"canopy/shared/subject"
)

// metric reads one sample of /metrics, whose name and labels are exactly name; -1 if absent.
func (i *ingest) metric(name string) float64 {
	resp, err := http.Get("http://" + i.health + "/metrics")
	if err != nil {
		return -1
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return -1
	}
	for line := range strings.Lines(string(body)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			f, err := strconv.ParseFloat(v, 64)
			if err == nil {
				return f
			}
		}
	}
	return -1
}

// committed is the group's offset of a partition, -1 for none.
func (w *world) committed(topic string, partition int32) int64 {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	offsets, err := kadm.NewClient(w.prod).FetchOffsets(ctx, "canopy-ingest")
	if err != nil {
		return -1
	}
	if o, ok := offsets.Lookup(topic, partition); ok {
		return o.At
	}
	return -1
}

func TestOrderAndCompletenessSurviveRestartsOfNATSUnderLoad(t *testing.T) {
	t.Parallel()
	const partitions = 3
	w := newWorld(t, kfake.SeedTopics(partitions, "events-foo"))
	cfg := w.config()
	i := w.run(cfg)
	load := w.load("events-foo", partitions, 40, 10*time.Millisecond)
	// A cut may come between two batches, so there are as many as it takes.
	cutOff := func() bool { return i.metric(`canopy_ingest_publish_restarts_total{reason="disconnected"}`) >= 1 }
	for cuts := 0; cuts < 4 || !cutOff(); cuts++ {
		if cuts == 30 {
			t.Fatal("no batch was cut off: the fault did not happen")
		}
		before := w.count()
		eventually(t, patience, "records flow", func() bool { return w.count() > before+500 })
		w.nats.Down()
		eventually(t, patience, "ingest waits for NATS", func() bool {
			return i.metric("canopy_ingest_window_records") > float64(cfg.Ingest.Window.Records)*3/4
		})
		w.nats.Up()
	}
	n := load.finish(t)
	eventually(t, patience, "everything is stored", func() bool { return w.count() >= n*partitions })
	i.stop()
	checkOrder(t, w.stored("foo", cfg.Ingest.Shards), partitions, n)
	for p := range int32(partitions) {
		if at := w.committed("events-foo", p); at != int64(n) {
			t.Errorf("partition %d: committed %d, want %d", p, at, n)
		}
	}
}

// refuseCommits makes a Kafka that takes no commits, so that every end is a crash between
// publish and commit. The channel is closed when the first has been tried.
func (w *world) refuseCommits() <-chan struct{} {
	refused := make(chan struct{})
	var once sync.Once
	w.kafka.ControlKey(int16(kmsg.OffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.kafka.KeepControl()
		once.Do(func() { close(refused) })
		r := req.(*kmsg.OffsetCommitRequest)
		resp := r.ResponseKind().(*kmsg.OffsetCommitResponse)
		for _, t := range r.Topics {
			rt := kmsg.NewOffsetCommitResponseTopic()
			rt.Topic, rt.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				rp := kmsg.NewOffsetCommitResponseTopicPartition()
				rp.Partition, rp.ErrorCode = p.Partition, 25 // UNKNOWN_MEMBER_ID
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	return refused
}

func TestCrashBetweenPublishAndCommitLosesNothingAndStoresNothingTwice(t *testing.T) {
	t.Parallel()
	const n = 1000
	w := newWorld(t, kfake.SeedTopics(1, "events-foo"))
	refused := w.refuseCommits()
	var rs []*kgo.Record
	for k := range n {
		rs = append(rs, eventRecord("events-foo", 0, k, `{}`))
	}
	w.produce(rs...)
	cfg := w.config()
	first := w.run(cfg)
	eventually(t, patience, "all is stored", func() bool { return w.count() == n })
	select {
	case <-refused:
	case <-time.After(20 * time.Second):
		t.Fatal("no commit was tried")
	}
	first.stop()
	if at := w.committed("events-foo", 0); at != -1 {
		t.Fatalf("committed %d: the fault did not happen", at)
	}
	second := w.run(cfg)
	// franz-go may take the refusals for a reason to join anew and read once more.
	eventually(t, patience, "all is read again", func() bool { return second.metric("canopy_ingest_duplicates_total") >= n })
	w.produce(eventRecord("events-foo", 0, n, `{}`))
	eventually(t, patience, "the next one is stored", func() bool { return w.count() == n+1 })
	second.stop()
	checkOrder(t, w.stored("foo", cfg.Ingest.Shards), 1, n+1)
}

func TestRecordsThatCanNeverBeStoredAreSkippedAndTheirNeighboursAreNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kfake.SeedTopics(1, "events-foo"))
	secret := strings.Repeat("s3cret", 60<<10)
	big := eventRecord("events-foo", 0, 1, `"`+secret+`"`)
	header := eventRecord("events-foo", 0, 3, `{}`)
	header.Headers[4].Value = []byte(strings.Repeat("c", 70<<10)) // a channel
	malformed := &kgo.Record{Topic: "events-foo", Value: []byte("s3cret")}
	w.produce(eventRecord("events-foo", 0, 0, `{}`), big, eventRecord("events-foo", 0, 2, `{}`), header, malformed, eventRecord("events-foo", 0, 5, `{}`))
	core, logs := observer.New(zap.DebugLevel)
	cfg := w.config()
	i := w.run(cfg, zap.New(core))
	eventually(t, patience, "all is committed", func() bool { return w.committed("events-foo", 0) == 6 })
	for name, want := range map[string]float64{
		`canopy_ingest_refused_total{reason="too_large"}`:        1,
		`canopy_ingest_refused_total{reason="header_too_large"}`: 1,
		`canopy_ingest_malformed_total{reason="not-cloudevent"}`: 1,
		`canopy_ingest_records_read_total`:                       6,
		`canopy_ingest_records_published_total`:                  3,
		`canopy_ingest_window_records`:                           0,
		`canopy_ingest_window_bytes`:                             0,
	} {
		if got := i.metric(name); got != want {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	i.stop()
	if got := fmt.Sprint(ids(t, w.stored("foo", cfg.Ingest.Shards))["events-foo/0"]); got != "[0 2 5]" {
		t.Errorf("stored %s, want [0 2 5]", got)
	}
	skipped := 0
	for _, e := range logs.All() {
		text := e.Message + fmt.Sprint(e.ContextMap())
		if strings.Contains(text, "s3cret") {
			t.Error("a payload was logged")
		}
		if strings.Contains(e.Message, "skipped") {
			skipped++
		}
	}
	if skipped != 3 {
		t.Errorf("%d lines about skipped records, want 3", skipped)
	}
}

func TestConnectionThatNATSEndsForGoodEndsIngestAndTheNextOneGoesOn(t *testing.T) {
	t.Parallel()
	// A server whose max_payload shrinks under a connection refuses what the client
	// believes to fit, and nats.go does not connect again after that error.
	w := newWorld(t, kfake.SeedTopics(1, "events-foo"))
	first := w.run(w.config())
	body := `"` + strings.Repeat("x", 4000) + `"`
	w.produce(eventRecord("events-foo", 0, 0, body))
	eventually(t, patience, "stored", func() bool { return w.count() == 1 })
	w.nats.Reload(func(o *server.Options) { o.MaxPayload = 3000 })
	w.produce(eventRecord("events-foo", 0, 1, body), eventRecord("events-foo", 0, 2, `{}`))
	select {
	case err := <-first.done:
		if err == nil {
			t.Error("ingest ended without an error")
		}
		first.done = nil
	case <-time.After(30 * time.Second):
		t.Fatal("ingest did not end")
	}
	second := w.run(w.config())
	eventually(t, patience, "the small one is stored", func() bool { return w.count() == 2 })
	eventually(t, patience, "all is committed", func() bool { return w.committed("events-foo", 0) == 3 })
	if n := second.metric(`canopy_ingest_refused_total{reason="too_large"}`); n != 1 {
		t.Errorf("%v refused, want 1", n)
	}
}

func TestRebalancesUnderLoadLoseNothingAndKeepOrder(t *testing.T) {
	t.Parallel()
	const partitions = 6
	w := newWorld(t, kfake.SeedTopics(partitions, "events-foo"))
	cfg := w.config()
	first := w.run(cfg)
	load := w.load("events-foo", partitions, 20, 10*time.Millisecond)
	moves := 0
	for range 2 {
		before := w.count()
		eventually(t, patience, "records flow", func() bool { return w.count() > before+500 })
		second := w.run(cfg)
		eventually(t, patience, "both have partitions", func() bool {
			return first.metric("canopy_ingest_partitions") == partitions/2 && second.metric("canopy_ingest_partitions") == partitions/2 &&
				second.metric("canopy_ingest_records_published_total") > 100
		})
		moves++
		second.stop()
		eventually(t, patience, "one has all", func() bool { return first.metric("canopy_ingest_partitions") == partitions })
	}
	n := load.finish(t)
	eventually(t, patience, "everything is stored", func() bool { return w.count() >= n*partitions })
	first.stop()
	if moves != 2 {
		t.Error("no partition moved: the fault did not happen")
	}
	checkOrder(t, w.stored("foo", cfg.Ingest.Shards), partitions, n)
}

func TestNewTopicIsReadFromItsStartWithinTenSeconds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, start string }{{"earliest", "earliest"}, {"latest", "latest"}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, kfake.SeedTopics(1, "events-old"))
			w.produce(eventRecord("events-old", 0, 0, `{}`))
			cfg := w.config()
			cfg.Ingest.Start = c.start
			i := w.run(cfg)
			eventually(t, patience, "the old topic is assigned", func() bool { return i.metric("canopy_ingest_partitions") == 1 })
			want := 1
			if c.start == "latest" {
				want = 0
			}
			begin := time.Now()
			w.produce(eventRecord("events-new", 0, 0, `{}`), eventRecord("events-new", 0, 1, `{}`), eventRecord("other", 0, 0, `{}`))
			eventually(t, 10*time.Second, "the new topic's records are stored", func() bool {
				return len(w.stored("new", cfg.Ingest.Shards)) == 2
			})
			t.Logf("seen after %v", time.Since(begin))
			w.produce(eventRecord("events-old", 0, 1, `{}`))
			eventually(t, 10*time.Second, "the old topic goes on", func() bool {
				return len(w.stored("old", cfg.Ingest.Shards)) == want+1
			})
		})
	}
}

func TestSecondIngestStartsThoughTheGroupHasCommittedNothingYet(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config()
	cfg.Ingest.Start = "latest"
	first := w.run(cfg)
	eventually(t, patience, "ready", first.ready)
	if _, err := kadm.NewClient(w.prod).CreateTopic(context.Background(), 2, 1, nil, "events-foo"); err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, "assigned", func() bool { return first.metric("canopy_ingest_partitions") == 2 })
	second := w.run(cfg)
	eventually(t, patience, "shared", func() bool { return second.metric("canopy_ingest_partitions") == 1 })
	w.produce(eventRecord("events-foo", 0, 0, `{}`), eventRecord("events-foo", 1, 0, `{}`))
	eventually(t, patience, "stored", func() bool { return w.count() == 2 })
}

func TestFirstTopicThatMatchesIsReadWithinTenSeconds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config()
	i := w.run(cfg)
	eventually(t, patience, "Kafka answers", func() bool { return i.ready() })
	w.produce(eventRecord("events-new", 0, 0, `{}`))
	eventually(t, 10*time.Second, "stored", func() bool { return w.count() == 1 })
}

func (i *ingest) ready() bool {
	resp, err := http.Get("http://" + i.health + "/readiness")
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	return resp.StatusCode == http.StatusOK
}

func TestTopicThatIsDeletedAndMadeAgainIsReadFromItsStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kfake.SeedTopics(1, "events-foo"))
	cfg := w.config()
	i := w.run(cfg)
	w.produce(eventRecord("events-foo", 0, 0, `{}`), eventRecord("events-foo", 0, 1, `{}`))
	eventually(t, patience, "committed", func() bool { return w.committed("events-foo", 0) == 2 })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	adm := kadm.NewClient(w.prod)
	if _, err := adm.DeleteTopic(ctx, "events-foo"); err != nil {
		t.Fatal(err)
	}
	if _, err := adm.CreateTopic(ctx, 1, 1, nil, "events-foo"); err != nil {
		t.Fatal(err)
	}
	w.prod.PurgeTopicsFromProducing("events-foo")
	w.produce(eventRecord("events-foo", 0, 10, `{}`), eventRecord("events-foo", 0, 11, `{}`), eventRecord("events-foo", 0, 12, `{}`))
	eventually(t, 10*time.Second, "the new topic's records are stored", func() bool { return w.count() == 5 })
	i.stop()
	if got := fmt.Sprint(eventIDs(t, w.stored("foo", cfg.Ingest.Shards))); got != "[0 1 10 11 12]" {
		t.Errorf("stored events %s", got)
	}
}

func TestWindowBoundsWhatIsHeldWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kfake.SeedTopics(2, "events-foo"))
	cfg := w.config()
	cfg.Ingest.Window = config64
	i := w.run(cfg)
	w.produce(eventRecord("events-foo", 0, 0, `{}`))
	eventually(t, patience, "acknowledged", func() bool {
		return i.metric("canopy_ingest_records_published_total") == 1 && i.metric("canopy_ingest_window_records") == 0
	})
	w.nats.Down()
	var rs []*kgo.Record
	for k := range 2000 {
		rs = append(rs, eventRecord("events-foo", 1, k, `"`+strings.Repeat("x", 1000)+`"`))
	}
	w.produce(rs...)
	eventually(t, patience, "the window is full", func() bool {
		return i.metric("canopy_ingest_window_records") == float64(config64.Records)
	})
	if b := i.metric("canopy_ingest_window_bytes"); b > float64(config64.Bytes) {
		t.Errorf("%v bytes in the window", b)
	}
	if n := i.metric("canopy_ingest_records_read_total"); n != float64(1+config64.Records) {
		t.Errorf("%v records read, want %d", n, 1+config64.Records)
	}
	if i.ready() {
		t.Error("ready without NATS")
	}
	eventually(t, patience, "lag is shown", func() bool { return i.metric("canopy_ingest_lag_records") >= 1900 })
	w.nats.Up()
	eventually(t, patience, "everything is stored", func() bool { return w.count() == 2001 })
	i.stop()
}

func TestOffsetsThatRetentionHasOvertakenAreCounted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kfake.SeedTopics(1, "events-foo"))
	i := w.run(w.config())
	for k := range 3 {
		w.produce(eventRecord("events-foo", 0, k, `{}`))
	}
	eventually(t, patience, "committed", func() bool { return w.committed("events-foo", 0) == 3 })
	i.stop()
	for k := range 7 {
		w.produce(eventRecord("events-foo", 0, 3+k, `{}`))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var to kadm.Offsets
	to.Add(kadm.Offset{Topic: "events-foo", Partition: 0, At: 8, LeaderEpoch: -1})
	if _, err := kadm.NewClient(w.prod).DeleteRecords(ctx, to); err != nil {
		t.Fatal(err)
	}
	i = w.run(w.config())
	eventually(t, patience, "what is left is stored", func() bool { return w.count() == 5 })
	if n := i.metric("canopy_ingest_records_lost_total"); n != 5 {
		t.Errorf("%v records lost, want 5", n)
	}
}

func TestStreamsAreMadeChangedAndTheirNumberIsWatched(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config()
	i := w.run(cfg)
	eventually(t, patience, "ready", i.ready)
	i.stop()
	core, logs := observer.New(zap.InfoLevel)
	cfg.Ingest.Shards = 2
	cfg.Ingest.Retention.EventsPerApplication = 77
	i = w.run(cfg, zap.New(core))
	eventually(t, patience, "ready", i.ready)
	if logs.FilterMessageSnippet("the number of shards has changed").Len() != 1 {
		t.Error("the change of the number of shards was not reported")
	}
	if n := logs.FilterMessage("stream changed").Len(); n != 2 {
		t.Errorf("%d streams changed, want 2", n)
	}
	nc, err := nats.Connect(w.nats.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	info, err := js.StreamInfo(subject.Stream(1))
	if err != nil {
		t.Fatal(err)
	}
	c := info.Config
	if c.MaxMsgsPerSubject != 77 || c.Replicas != 1 || c.Metadata[subject.MetadataShards] != "2" || c.Metadata[subject.MetadataShard] != "1" || !c.AllowDirect || c.MaxConsumers != 1000 {
		t.Errorf("stream is %+v", c)
	}
	i.stop()
	core, logs = observer.New(zap.InfoLevel)
	i = w.run(cfg, zap.New(core))
	eventually(t, patience, "ready", i.ready)
	if n := logs.FilterMessageSnippet("stream ").Len(); n != 0 {
		t.Errorf("%d lines about streams of which nothing changed", n)
	}
}
