package bridge

import (
	"context"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"canopy/shared/config"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

// patience is for conditions that hold soon, unless the machine has much else to do.
const patience = 60 * time.Second

// config64 is a window that is soon full.
var config64 = config.Window{Records: 64, Bytes: 1 << 20}

// world is a Kafka and a NATS server for one test, which can be stopped and started.
type world struct {
	t     *testing.T
	kafka *kfake.Cluster
	nats  *natstest.Server
	prod  *kgo.Client
}

func newWorld(t *testing.T, opts ...kfake.Opt) *world {
	t.Helper()
	w := &world{t: t}
	opts = append([]kfake.Opt{kfake.NumBrokers(1), kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(1)}, opts...)
	var err error
	if w.kafka, err = kfake.NewCluster(opts...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.kafka.Close)
	w.nats = natstest.Start(t, func(o *server.Options) { o.MaxPayload = 256 << 10 })
	w.prod = w.producer()
	return w
}

// producer gives a client that knows the partitions that there are now.
func (w *world) producer() *kgo.Client {
	w.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.ListenAddrs()...), kgo.AllowAutoTopicCreation(),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(client.Close)
	return client
}

func (w *world) config() config.Config {
	return config.Config{
		Kafka:   config.Kafka{BootstrapServers: w.kafka.ListenAddrs()},
		NATS:    config.NATS{URL: w.nats.URL()},
		Runtime: config.Runtime{Health: config.Health{BindAddr: "127.0.0.1:0"}},
		Ingest: config.Ingest{
			Topics: []string{"^(events|evt)-.*"}, Group: "canopy-ingest", Start: "earliest",
			Shards: 4, Duplicates: 2 * time.Minute, Consumers: 1000,
			Retention: config.Retention{Age: time.Hour, Bytes: 256 << 20, EventsPerApplication: 1_000_000},
			Window:    config.Window{Records: 2048, Bytes: 16 << 20},

			SessionTimeout: 6 * time.Second,
		},
	}
}

// ingest is a bridge that runs.
type ingest struct {
	t      *testing.T
	health string
	cancel context.CancelFunc
	done   chan error
}

func (w *world) run(cfg config.Config, logs ...*zap.Logger) *ingest {
	w.t.Helper()
	log := zaptest.NewLogger(w.t, zaptest.Level(zap.WarnLevel))
	if len(logs) > 0 {
		log = logs[0]
	}
	ctx, cancel := context.WithCancel(context.Background())
	i := &ingest{t: w.t, cancel: cancel, done: make(chan error, 1)}
	addr := make(chan net.Addr, 1)
	go func() { i.done <- Run(ctx, cfg, log, func(a net.Addr) { addr <- a }) }()
	select {
	case a := <-addr:
		i.health = a.String()
	case err := <-i.done:
		w.t.Fatal(err)
	}
	w.t.Cleanup(i.stop)
	return i
}

func (i *ingest) stop() {
	i.cancel()
	if i.done == nil {
		return
	}
	select {
	case err := <-i.done:
		if err != nil {
			i.t.Errorf("ingest ended with %v", err)
		}
	case <-time.After(40 * time.Second):
		i.t.Error("ingest did not end")
	}
	i.done = nil
}

// eventRecord is a binary CloudEvent with the given id.
func eventRecord(topic string, partition int32, id int, body string) *kgo.Record {
	return &kgo.Record{
		Topic: topic, Partition: partition, Value: []byte(body),
		Headers: []kgo.RecordHeader{
			{Key: "ce_specversion", Value: []byte("1.0")}, {Key: "ce_id", Value: []byte(strconv.Itoa(id))},
			{Key: "ce_type", Value: []byte("io.drogue.event.v1")}, {Key: "ce_source", Value: []byte("drogue://x")},
			{Key: "ce_subject", Value: []byte("temperature")}, {Key: "ce_device", Value: []byte("device 1")},
			{Key: "content-type", Value: []byte("application/json")},
		},
	}
}

// produce writes the records and waits until Kafka has them.
func (w *world) produce(rs ...*kgo.Record) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := w.prod.ProduceSync(ctx, rs...).FirstErr(); err != nil {
		w.t.Fatal(err)
	}
}

// stored reads what app's stream holds of app, in its order.
func (w *world) stored(app string, shards int) []jetstream.Msg {
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
	return readStream(w.t, js, subject.Shard(app, shards), app)
}

func readStream(t *testing.T, js jetstream.JetStream, shard int, app string) []jetstream.Msg {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, subject.Stream(shard))
	if err != nil {
		return nil
	}
	c, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject.In(shard, app)}})
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(subject.In(shard, app)))
	if err != nil {
		t.Fatal(err)
	}
	it, err := c.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer it.Stop()
	var list []jetstream.Msg
	for range info.State.Subjects[subject.In(shard, app)] {
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, m)
	}
	return list
}

// count is how many messages all streams hold.
func (w *world) count() int {
	if w.nats.Running() == nil {
		return 0
	}
	info, err := w.nats.Running().Jsz(&server.JSzOptions{})
	if err != nil {
		return 0
	}
	return int(info.Messages)
}

// eventually waits until ok holds.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(within)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// ids are the place in its partition of each message, by partition, from Nats-Msg-Id.
func ids(t *testing.T, msgs []jetstream.Msg) map[string][]int {
	t.Helper()
	byPartition := make(map[string][]int)
	for _, m := range msgs {
		id := strings.Split(m.Headers().Get(nats.MsgIdHdr), "/")
		if len(id) < 3 {
			t.Fatalf("Nats-Msg-Id %q", m.Headers().Get(nats.MsgIdHdr))
		}
		offset, err := strconv.Atoi(id[2])
		if err != nil {
			t.Fatal(err)
		}
		key := id[0] + "/" + id[1]
		byPartition[key] = append(byPartition[key], offset)
	}
	return byPartition
}

// checkOrder fails unless every partition's offsets are exactly 0 to n-1, in order.
func checkOrder(t *testing.T, msgs []jetstream.Msg, partitions int, n int) {
	t.Helper()
	got := ids(t, msgs)
	if len(got) != partitions {
		t.Errorf("%d partitions in the stream, want %d", len(got), partitions)
	}
	for key, offsets := range got {
		if len(offsets) != n {
			t.Errorf("%s: %d records in the stream, want %d", key, len(offsets), n)
		}
		for i, o := range offsets {
			if o != i {
				t.Errorf("%s: place %d holds offset %d", key, i, o)
				break
			}
		}
	}
}

// load writes records to all partitions of topic until stopped, and knows how many.
type load struct {
	written atomic.Int64 // rounds: records in every partition
	stop    context.CancelFunc
	done    chan error
}

func (w *world) load(topic string, partitions int, perRound int, pause time.Duration) *load {
	ctx, cancel := context.WithCancel(context.Background())
	p := &load{stop: cancel, done: make(chan error, 1)}
	go func() {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for ctx.Err() == nil {
			var rs []*kgo.Record
			base := int(p.written.Load())
			for i := range perRound {
				for n := range partitions {
					rs = append(rs, eventRecord(topic, int32(n), base+i, `{"v":1}`))
				}
			}
			if err := w.prod.ProduceSync(context.Background(), rs...).FirstErr(); err != nil {
				p.done <- err
				return
			}
			p.written.Add(int64(perRound))
			<-tick.C
		}
		p.done <- nil
	}()
	return p
}

func (p *load) finish(t *testing.T) int {
	t.Helper()
	p.stop()
	if err := <-p.done; err != nil {
		t.Fatal(err)
	}
	return int(p.written.Load())
}
