//go:build linux

package e2e

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	"go.uber.org/zap/zaptest/observer"

	"canopy/deployments/local"
	"canopy/shared/natstest"
	"canopy/shared/topic"
)

const (
	patience = 60 * time.Second
	shards   = "4"
)

var (
	outsideKafka = os.Getenv("CANOPY_TEST_KAFKA")
	outsideNATS  = os.Getenv("CANOPY_TEST_NATS")
)

// setup says what a world needs before its tiers start.
type setup struct {
	// public and private are applications by a short name, with the number of partitions
	// of their topics; 0 makes no topic. alice may read the private ones.
	public, private map[string]int32

	// broker and natsURL are servers that the test has started by itself; empty ones are not.
	broker, natsURL string

	// stopsNATS is for tests that stop the server, for which one from outside will not do.
	stopsNATS bool
}

// world is what one test runs: Kafka, NATS, an issuer, and the tiers that it starts.
type world struct {
	t      *testing.T
	prefix string // of every name in it
	setup  setup

	kafka   string // host:port
	natsURL string
	nats    *natstest.Server // nil unless setup.stopsNATS
	issuer  string           // host:port
	file    string           // of applications
	apiKey  string           // of alice

	edge, ingest local.Addrs
	seen         zapcore.Core           // what feeds logs
	logs         *observer.ObservedLogs // of the tiers in this process

	client *kgo.Client
	admin  *kadm.Client
}

// newWorld starts the servers and makes the topics. The tiers are for the test to start.
func newWorld(t *testing.T, s setup) *world {
	t.Helper()
	w := &world{
		t: t, setup: s, prefix: "e2e-" + strings.ToLower(rand.Text()[:10]), apiKey: rand.Text(),
		file: filepath.Join(t.TempDir(), "applications.yaml"), kafka: outsideKafka, natsURL: outsideNATS,
	}
	w.seen, w.logs = observer.New(zapcore.InfoLevel)
	w.writeApplications(nil)
	if s.broker != "" {
		w.kafka = s.broker
	}
	if s.natsURL != "" {
		w.natsURL = s.natsURL
	}
	parts := []string{local.Issuer}
	if w.kafka == "" {
		parts = append(parts, local.Kafka)
	}
	if s.stopsNATS {
		w.nats = natstest.Start(t)
		w.natsURL = w.nats.URL()
	} else if w.natsURL == "" {
		parts = append(parts, local.NATS)
	}
	at := w.run(parts)
	w.issuer = at.IssuerAddr
	if w.kafka == "" {
		w.kafka = at.Kafka
	}
	if w.natsURL == "" {
		w.natsURL = "nats://" + at.NATS
	}
	w.connect()
	for _, applications := range []map[string]int32{s.public, s.private} {
		for name, partitions := range applications {
			if partitions > 0 {
				w.makeTopic(name, partitions)
			}
		}
	}
	return w
}

// start is a world with both tiers.
func start(t *testing.T, s setup, environ ...string) *world {
	t.Helper()
	w := newWorld(t, s)
	w.startIngest(w.natsURL, environ...)
	w.startEdge(w.natsURL, environ...)
	return w
}

// startIngest runs ingest in this process until the test ends.
func (w *world) startIngest(natsURL string, environ ...string) {
	w.t.Helper()
	w.ingest = w.run([]string{local.Ingest}, append(w.settings(natsURL), environ...)...)
}

// startEdge runs an edge in this process until the test ends.
func (w *world) startEdge(natsURL string, environ ...string) {
	w.t.Helper()
	w.edge = w.run([]string{local.Edge}, append(w.settings(natsURL), environ...)...)
}

// settings are those of both tiers.
func (w *world) settings(natsURL string) []string {
	return []string{
		"KAFKA__BOOTSTRAP_SERVERS=" + w.kafka,
		"NATS__URL=" + natsURL,
		"INGEST__GROUP=" + w.prefix,
		"INGEST__TOPICS=^(events|evt-[0-9a-f]{32})-" + w.prefix + ".*",
		"INGEST__SHARDS=" + shards,
		"RUNTIME__HEALTH__BIND_ADDR=127.0.0.1:0",
	}
}

// run starts parts of the local stack, and ends them with the test.
func (w *world) run(parts []string, environ ...string) local.Addrs {
	w.t.Helper()
	own := []string{
		"LOCAL__RUN=" + strings.Join(parts, ","),
		"LOCAL__KAFKA_ADDR=127.0.0.1:0", "LOCAL__NATS_ADDR=127.0.0.1:0", "LOCAL__ISSUER_ADDR=127.0.0.1:0",
		"HTTP__BIND_ADDR=127.0.0.1:0", "EDGE__APPLICATIONS_FILE=" + w.file, "EDGE__DRAIN=100ms",
	}
	if w.issuer != "" {
		own = append(own, "LOCAL__ISSUER_ADDR="+w.issuer)
	}
	cfg, err := local.Load("", append(own, environ...))
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	up, done := make(chan local.Addrs, 1), make(chan error, 1)
	log := w.log()
	go func() { done <- local.Run(ctx, cfg, log, io.Discard, func(at local.Addrs) { up <- at }) }()
	select {
	case at := <-up:
		w.t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				w.t.Errorf("stop %v: %v", parts, err)
			}
		})
		return at
	case err := <-done:
		cancel()
		w.t.Fatalf("start %v: %v", parts, err)
	case <-time.After(patience):
		cancel()
		w.t.Fatalf("start %v: not up after %v", parts, patience)
	}
	panic("not reached")
}

// log is shown if the test fails, and can be read by it.
func (w *world) log() *zap.Logger {
	return zaptest.NewLogger(w.t, zaptest.Level(zapcore.WarnLevel), zaptest.WrapOptions(
		zap.WrapCore(func(shown zapcore.Core) zapcore.Core { return zapcore.NewTee(shown, w.seen) })))
}

// app is the full name of an application.
func (w *world) app(name string) string { return w.prefix + "-" + name }

// makeTopic makes the topic of an application.
func (w *world) makeTopic(name string, partitions int32) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// Replicas -1 is the broker's own default.
	if _, err := w.admin.CreateTopic(ctx, partitions, -1, nil, topic.Of(w.app(name))); err != nil {
		w.t.Fatalf("create topic of %q: %v", name, err)
	}
}

// connect makes the client that produces records.
func (w *world) connect() {
	w.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.kafka), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0), kgo.MetadataMinAge(100*time.Millisecond), kgo.UnknownTopicRetries(-1))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(client.Close)
	w.client, w.admin = client, kadm.NewClient(client)
}

// writeApplications writes the file of applications, without those that are withdrawn.
func (w *world) writeApplications(withdrawn []string) {
	w.t.Helper()
	var b strings.Builder
	b.WriteString("applications:\n")
	for _, group := range []struct {
		applications map[string]int32
		grant        string
	}{{w.setup.public, "{public: true}"}, {w.setup.private, "{members: {alice: [read]}}"}} {
		for _, name := range slices.Sorted(maps.Keys(group.applications)) {
			if slices.Contains(withdrawn, name) {
				continue
			}
			key, err := json.Marshal(w.app(name)) // a JSON string is a YAML string, whatever is in it
			if err != nil {
				w.t.Fatal(err)
			}
			fmt.Fprintf(&b, "  ? %s\n  : %s\n", key, group.grant)
		}
	}
	sum := sha256.Sum256([]byte(w.apiKey))
	fmt.Fprintf(&b, "api_keys:\n  - user: alice\n    sha256: %s\n", hex.EncodeToString(sum[:]))
	// A new file takes the place of the old one at once, as with a mounted ConfigMap.
	if err := errors.Join(os.WriteFile(w.file+".new", []byte(b.String()), 0o600), os.Rename(w.file+".new", w.file)); err != nil {
		w.t.Fatal(err)
	}
}

// metric reads one sample of a tier, whose name and labels are exactly name; 0 if there is none.
func (w *world) metric(health, name string) float64 {
	w.t.Helper()
	return w.samples(health, func(sample string) bool { return sample == name })
}

// total adds up the samples of a tier that have a name, whatever their labels are.
func (w *world) total(health, name string) float64 {
	w.t.Helper()
	return w.samples(health, func(sample string) bool { return sample == name || strings.HasPrefix(sample, name+"{") })
}

// samples adds up the samples of a tier, given by name and labels, that want is true for.
func (w *world) samples(health string, want func(string) bool) (sum float64) {
	w.t.Helper()
	response, err := http.Get("http://" + health + "/metrics")
	if err != nil {
		w.t.Fatalf("read metrics: %v", err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatalf("read metrics: %v", err)
	}
	for line := range strings.Lines(string(body)) {
		sample, text, ok := strings.Cut(strings.TrimSpace(line), "} ") // labels may hold blanks
		if ok {
			sample += "}"
		} else {
			sample, text, _ = strings.Cut(sample, " ")
		}
		if !want(sample) {
			continue
		}
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			w.t.Fatalf("read metric %s: %v", sample, err)
		}
		sum += value
	}
	return sum
}

// eventually waits until ok holds, and fails the test if it never does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
