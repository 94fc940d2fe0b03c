//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"canopy/shared/natstest"
)

const permissionsFile = "../nats/permissions.conf"

func TestBothTiersWorkWithThePermissionsThatOperatorsAreTold(t *testing.T) {
	t.Setenv("CANOPY_INGEST_PASSWORD", "i")
	t.Setenv("CANOPY_EDGE_PASSWORD", "e")
	told, err := server.ProcessConfigFile(permissionsFile)
	if err != nil {
		t.Fatalf("read %s: %v", permissionsFile, err)
	}
	broker := natstest.Start(t, func(o *server.Options) { o.Users = told.Users })
	w := newWorld(t, setup{public: map[string]int32{"busy": 1, "noisy": 1}})
	as := func(user, password string) string {
		return strings.Replace(broker.URL(), "//", fmt.Sprintf("//%s:%s@", user, password), 1)
	}
	w.startIngest(as("canopy-ingest", "i"), "INGEST__RETENTION__BYTES=64MiB", "INGEST__SHARDS=8")
	w.startEdge(as("canopy-edge", "e"))

	live, group := w.open(w.path("busy", ""), nil), w.open(w.path("busy", "")+"?group_id=g", nil)
	w.produce(w.numbered("busy", "", 1, 0))
	cursor := fmt.Sprint(decode(t, read(t, live))["cursor"])
	read(t, group)
	w.produce(w.numbered("busy", "", 2, 0))
	read(t, group) // and with it the Ping behind the first one
	again := w.open(w.path("busy", "")+"?since="+cursor, nil)
	if got := decode(t, read(t, again)); got["id"] != "2" {
		t.Errorf("after a return the first event is %v, want number 2", got)
	}
	eventually(t, "a beacon is sent", func() bool { return w.metric(w.ingest.IngestHealth, "canopy_ingest_beacons_total") > 0 })
	eventually(t, "the group's events are acknowledged", func() bool {
		return w.metric(w.edge.Health, "canopy_edge_group_acknowledged_total") > 0
	})
	expectEviction(t, w)
	for _, entry := range w.logs.All() {
		if strings.Contains(strings.ToLower(entry.Message), "permission") {
			t.Errorf("logged: %s %v", entry.Message, entry.ContextMap())
		}
	}
	expectNoWordsOfOthers(t, as("canopy-edge", "e"))
}

// expectEviction has an application publish more than its share, and its events counted.
func expectEviction(t *testing.T, w *world) {
	t.Helper()
	const share = 2 << 20
	for n, size := uint64(1), 64<<10; n <= 2*share/uint64(size); n++ {
		w.produce(w.numbered("noisy", "", n, size))
	}
	eventually(t, "a noisy application is evicted", func() bool {
		return w.metric(w.ingest.IngestHealth, "canopy_ingest_evicted_events_total") > 0
	})
	if w.metric(w.ingest.IngestHealth, "canopy_ingest_share_counts_total") < 1 {
		t.Error("its events were not counted")
	}
	if n := w.metric(w.ingest.IngestHealth, "canopy_ingest_share_errors_total"); n != 0 {
		t.Errorf("%v errors", n)
	}
}

// expectNoWordsOfOthers checks that an edge's user cannot publish events.
func expectNoWordsOfOthers(t *testing.T, url string) {
	t.Helper()
	refused := make(chan error, 10)
	nc, err := nats.Connect(url, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for _, subject := range []string{"events.0.busy", "in.0.busy", "grp.0.x"} {
		if err := nc.Publish(subject, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := <-refused; !strings.Contains(err.Error(), subject) {
			t.Errorf("publish to %s: %v", subject, err)
		}
	}
}
