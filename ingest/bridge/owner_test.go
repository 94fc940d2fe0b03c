package bridge

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"canopy/shared/event"
	"canopy/shared/topic"
)

// namesApplication is eventRecord with the extension application.
func namesApplication(topicName string, id int, application string) *kgo.Record {
	r := eventRecord(topicName, 0, id, `{}`)
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: "ce_application", Value: []byte(application)})
	return r
}

// bodyOfADevice is what becomes of a device's message whose content type, and so its body, is
// an event of its own choice: the cloud's headers tell the truth beside it.
func bodyOfADevice(topicName string, id int, honest, kind, forged string) *kgo.Record {
	r := namesApplication(topicName, id, honest)
	for i := range r.Headers {
		if r.Headers[i].Key == "content-type" {
			r.Headers[i].Value = []byte("application/cloudevents+json; charset=utf-8")
		}
	}
	r.Value = fmt.Appendf(nil, `{"specversion":"1.0","id":"%d","type":%q,"source":"canopy:edge","application":%s,"data":{"reason":"retention"}}`, id, kind, forged)
	return r
}

// storedIDs is the ids of the events that app's stream holds of app, in order.
func (w *world) storedIDs(app string, shards int) string {
	w.t.Helper()
	return fmt.Sprint(eventIDs(w.t, w.stored(app, shards)))
}

func (w *world) wantMetrics(i *ingest, want map[string]float64) {
	w.t.Helper()
	for name, n := range want {
		if got := i.metric(name); got != n {
			w.t.Errorf("%s = %v, want %v", name, got, n)
		}
	}
}

func TestAWriterToOneApplicationsTopicReachesNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kfake.SeedTopics(1, "events-a", "events-a-dlt"))
	core, logs := observer.New(zap.DebugLevel)
	cfg := w.config()
	i := w.run(cfg, zap.New(core))
	w.produce(
		namesApplication("events-a", 0, "a"),
		namesApplication("events-a", 1, "b"),
		bodyOfADevice("events-a", 2, "a", "io.drogue.event.v1", `"b"`),
		bodyOfADevice("events-a", 3, "a", event.GapType, `"b"`),
		bodyOfADevice("events-a", 4, "a", event.GapType, `"\u0062"`),
		namesApplication("events-a", 5, "S3cret.app"),
		namesApplication("events-a", 6, "a"),
		namesApplication("events-a-dlt", 7, "a"), // it failed, and is kept for somebody to look at
	)
	eventually(t, patience, "all is committed", func() bool {
		return w.committed("events-a", 0) == 7 && w.committed("events-a-dlt", 0) == 1
	})
	w.wantMetrics(i, map[string]float64{
		`canopy_ingest_misnamed_total{mode="binary"}`:     3,
		`canopy_ingest_misnamed_total{mode="structured"}`: 3,
		`canopy_ingest_records_published_total`:           8,
	})
	i.stop()
	for app, want := range map[string]string{"a": "[0 1 2 3 4 5 6]", "b": "[]", "S3cret.app": "[]", "a-dlt": "[7]"} {
		if got := w.storedIDs(app, cfg.Ingest.Shards); got != want {
			t.Errorf("%s has %s, want %s", app, got, want)
		}
	}
	if second := w.stored("a", cfg.Ingest.Shards)[1]; !strings.HasSuffix(string(second.Data()), `,"application":"b"}`) {
		t.Errorf("the event lost the application that it names: %s", second.Data())
	}
	told := logs.FilterMessageSnippet("names another application")
	for _, e := range told.All() {
		fields := e.ContextMap()
		if fields["topic"] == nil || fields["partition"] == nil || fields["offset"] == nil || strings.Contains(fmt.Sprint(fields), "S3cret") {
			t.Errorf("logged with %v", fields)
		}
	}
	if told.Len() != 6 {
		t.Errorf("%d lines about misnamed events, want 6", told.Len())
	}
}

func TestAHashedTopicCarriesTheEventsOfItsOwnApplicationOnly(t *testing.T) {
	t.Parallel()
	own := topic.Of("My.App")
	w := newWorld(t, kfake.SeedTopics(1, own))
	cfg := w.config()
	cfg.Ingest.Application = "fallback"
	i := w.run(cfg)
	w.produce(
		namesApplication(own, 0, "My.App"),
		namesApplication(own, 1, "b"),
		namesApplication(own, 2, "my.app"),
		eventRecord(own, 0, 3, `{}`), // names none
		bodyOfADevice(own, 4, "My.App", event.GapType, `"b"`),
		bodyOfADevice(own, 5, "My.App", "io.drogue.event.v1", `"My.App"`),
		namesApplication(own, 6, "My.App"),
	)
	eventually(t, patience, "all is committed", func() bool { return w.committed(own, 0) == 7 })
	w.wantMetrics(i, map[string]float64{
		`canopy_ingest_malformed_total{reason="other-application"}`: 4,
		`canopy_ingest_records_published_total`:                     3,
	})
	i.stop()
	for app, want := range map[string]string{"My.App": "[0 5 6]", "b": "[]", "my.app": "[]", "fallback": "[]"} {
		if got := w.storedIDs(app, cfg.Ingest.Shards); got != want {
			t.Errorf("%s has %s, want %s", app, got, want)
		}
	}
}

func TestOutsideTheNamingTheEventDecidesUnlessItsRecordContradictsIt(t *testing.T) {
	t.Parallel()
	const mixed = "events-a.dlt"
	w := newWorld(t, kfake.SeedTopics(1, mixed))
	core, logs := observer.New(zap.DebugLevel)
	cfg := w.config()
	cfg.Ingest.Application = "fallback"
	i := w.run(cfg, zap.New(core))
	w.produce(
		namesApplication(mixed, 0, "a"),
		namesApplication(mixed, 1, "b"),
		bodyOfADevice(mixed, 2, "a", "io.drogue.event.v1", `"a"`),
		bodyOfADevice(mixed, 3, "a", event.GapType, `"b"`),
		bodyOfADevice(mixed, 4, "a", event.GapType, `null`), // the fallback's, says the body
		eventRecord(mixed, 0, 5, `{}`),
	)
	eventually(t, patience, "all is committed", func() bool { return w.committed(mixed, 0) == 6 })
	w.wantMetrics(i, map[string]float64{`canopy_ingest_malformed_total{reason="contradiction"}`: 2})
	i.stop()
	for app, want := range map[string]string{"a": "[0 2]", "b": "[1]", "fallback": "[5]"} {
		if got := w.storedIDs(app, cfg.Ingest.Shards); got != want {
			t.Errorf("%s has %s, want %s", app, got, want)
		}
	}
	if logs.FilterMessageSnippet("no application's").Len() == 0 {
		t.Error("nobody is told that the topic's writers choose the application")
	}
}

func TestTopicsThatAreLeftOutAreNotReadWheneverTheyAreMade(t *testing.T) {
	t.Parallel()
	for _, start := range []string{"earliest", "latest"} {
		t.Run(start, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, kfake.SeedTopics(1, "events-a", "events-a-dlt"))
			cfg := w.config()
			cfg.Ingest.Start = start
			cfg.Ingest.Topics = append(cfg.Ingest.Topics, "!^.*-(dlt|retry-[0-9]+)$")
			i := w.run(cfg)
			eventually(t, patience, "the topic is assigned", func() bool { return i.metric("canopy_ingest_partitions") == 1 })
			w.produce(namesApplication("events-a-dlt", 0, "a"), namesApplication("events-b-retry-0", 1, "b"))
			w.produce(namesApplication("events-new", 2, "new"), namesApplication("events-a", 3, "a"))
			eventually(t, patience, "the others are read", func() bool {
				return w.committed("events-new", 0) == 1 && w.committed("events-a", 0) == 1
			})
			w.wantMetrics(i, map[string]float64{"canopy_ingest_partitions": 2, "canopy_ingest_records_read_total": 2})
			i.stop()
			for _, left := range []string{"events-a-dlt", "events-b-retry-0"} {
				if at := w.committed(left, 0); at != -1 {
					t.Errorf("%s: committed %d", left, at)
				}
			}
		})
	}
}

func TestAFloodOfMisnamedEventsFillsNoLogAndSilencesNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, kfake.SeedTopics(1, "events-a"))
	core, logs := observer.New(zap.DebugLevel)
	i := w.run(w.config(), zap.New(core))
	begin := time.Now()
	const n = 5000
	rs := make([]*kgo.Record, n, n+1)
	for k := range rs {
		rs[k] = namesApplication("events-a", k, "b")
	}
	w.produce(append(rs, &kgo.Record{Topic: "events-a"})...)
	eventually(t, patience, "all is committed", func() bool { return w.committed("events-a", 0) == n+1 })
	w.wantMetrics(i, map[string]float64{`canopy_ingest_misnamed_total{mode="binary"}`: n})
	i.stop()
	told, most := logs.FilterMessageSnippet("names another application").Len(), 11+int(time.Since(begin)/time.Second)
	if told == 0 || told > most {
		t.Errorf("%d lines about %d events, want at most %d", told, n, most)
	}
	if logs.FilterMessageSnippet("record skipped").Len() != 1 {
		t.Error("the malformed record behind them was not logged")
	}
}
