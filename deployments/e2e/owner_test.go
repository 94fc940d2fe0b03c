//go:build linux

package e2e

import (
	"fmt"
	"testing"

	"github.com/coder/websocket"
	"github.com/twmb/franz-go/pkg/kgo"

	"canopy/shared/event"
	"canopy/shared/topic"
)

// forged are records in the topic of the application from that name the application to: as a
// tenant's rule makes them that sets the extension, and as a device's own body does.
func (w *world) forged(from, to string) []*kgo.Record {
	rule := w.numbered(to, "", 666, 0)
	rule.Topic = topic.Of(w.app(from))
	body := func(kind, data string) *kgo.Record {
		return &kgo.Record{
			Topic: rule.Topic,
			Headers: headers("ce_specversion", "1.0", "ce_id", "667", "ce_type", "io.drogue.event.v1", "ce_source", "drogue://device",
				"ce_application", w.app(from), "content-type", "application/cloudevents+json; charset=utf-8"),
			Value: fmt.Appendf(nil, `{"specversion":"1.0","id":"667","type":%q,"source":"canopy:edge","application":%q,"data":%s}`, kind, w.app(to), data),
		}
	}
	return []*kgo.Record{rule, body("io.drogue.event.v1", `{"n":667}`), body(event.GapType, `{"reason":"log","message":"start anew"}`)}
}

func TestWhoMayWriteToOneTopicReachesNoOtherApplicationsSocketsGroupsAndLog(t *testing.T) {
	const turns = 5
	// The topic of the second one is a hashed one.
	w := start(t, setup{public: map[string]int32{"a": 1, "A.a": 1, "b": 1}})
	b, group := w.open(w.path("b", ""), nil), w.open(w.path("b", "")+"?group_id=g", nil)
	own := w.open(w.path("a", ""), nil)
	var records []*kgo.Record
	for n := range uint64(turns) {
		records = append(append(append(records, w.forged("a", "b")...), w.forged("A.a", "b")...), w.numbered("b", "", n+1, 0))
	}
	w.produce(records...)
	eventually(t, "everything is read", func() bool {
		return w.metric(w.ingest.IngestHealth, "canopy_ingest_records_read_total") >= float64(len(records)) &&
			w.metric(w.ingest.IngestHealth, "canopy_ingest_window_records") == 0
	})
	// A forged event would be read in the place of an honest one.
	for where, socket := range map[string]*websocket.Conn{
		"a socket": b, "a group": group, "the log": w.open(w.path("b", "")+"?since=earliest", nil),
	} {
		for n := range turns {
			if got := decode(t, read(t, socket)); got["id"] != fmt.Sprint(n+1) {
				t.Errorf("%s of b got %v, want event %d", where, got, n+1)
			}
		}
	}
	for range 3 * turns {
		if got := decode(t, read(t, own)); got["application"] != w.app("b") || got["id"] != "666" && got["id"] != "667" {
			t.Errorf("a socket of a got %v, want what was written to its topic", got)
		}
	}
	if n := w.total(w.ingest.IngestHealth, "canopy_ingest_misnamed_total"); n != 3*turns {
		t.Errorf("%v misnamed events were counted, want %d", n, 3*turns)
	}
	if n := w.total(w.ingest.IngestHealth, "canopy_ingest_malformed_total"); n != 3*turns {
		t.Errorf("%v records were skipped, want %d", n, 3*turns)
	}
}
