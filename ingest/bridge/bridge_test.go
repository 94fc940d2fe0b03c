package bridge

import (
	"net/http"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"canopy/shared/event"
	"canopy/shared/subject"
)

func TestRecordOfKafkaIsRepublishedAsAnEvent(t *testing.T) {
	w := newWorld(t)
	cfg := w.config()
	nc, err := nats.Connect(w.nats.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	shard := subject.Shard("foo", cfg.Ingest.Shards)
	sub, err := nc.SubscribeSync(subject.Events(shard, "foo"))
	if err != nil {
		t.Fatal(err)
	}
	i := w.run(cfg)
	w.produce(eventRecord("events-foo", 0, 7, `{"temp":21.50}`))
	m, err := sub.NextMsg(20 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"specversion":"1.0","id":"7","type":"io.drogue.event.v1","source":"drogue://x",` +
		`"datacontenttype":"application/json","subject":"temperature","data":{"temp":21.50},"device":"device 1"}`
	if string(m.Data) != want {
		t.Errorf("event is %s, want %s", m.Data, want)
	}
	if c, d := m.Header.Get(event.HeaderChannel), m.Header.Get(event.HeaderDevice); c != "temperature" || d != "device%201" {
		t.Errorf("channel %q, device %q", c, d)
	}
	if m.Header.Get(event.HeaderAppended) == "" {
		t.Error("no " + event.HeaderAppended)
	}
	eventually(t, patience, "ready", func() bool {
		resp, err := http.Get("http://" + i.health + "/readiness")
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		return resp.StatusCode == http.StatusOK
	})
	i.stop()
}
