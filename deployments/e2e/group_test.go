//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// groupWindow is how many events of a group may be in flight, by default.
const groupWindow = 1024

// fromEnviron is a number from the environment: how hard a test is.
func fromEnviron(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: expected a number from 1", name, text)
	}
	return n
}

// members are sockets of one group and what they have received. Its methods may be called
// from any goroutine.
type members struct {
	w   *world
	end sync.WaitGroup

	mu    sync.Mutex
	times map[uint64]int // by the event's number
	all   int
}

func (w *world) members() *members {
	m := &members{w: w, times: map[uint64]int{}}
	w.t.Cleanup(m.end.Wait)
	return m
}

// join opens a socket of the group at an edge, and counts what it receives.
func (m *members) join(edge, path string) {
	m.w.t.Helper()
	conn := m.dial(edge, path)
	m.end.Go(func() {
		for {
			_, text, err := conn.Read(context.Background())
			if err != nil {
				return
			}
			var event struct{ Data struct{ N uint64 } }
			if err := json.Unmarshal(text, &event); err != nil || event.Data.N == 0 {
				m.w.t.Errorf("got %.300s: %v", text, err)
			}
			m.mu.Lock()
			m.times[event.Data.N]++
			m.all++
			m.mu.Unlock()
		}
	})
}

// dial opens a socket of the group that reads nothing.
func (m *members) dial(edge, path string) *websocket.Conn {
	m.w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws://"+edge+path+"?group_id=g", nil)
	if err != nil {
		m.w.t.Fatalf("join a group at %s: %v", edge, err)
	}
	conn.SetReadLimit(-1)
	m.w.t.Cleanup(func() { _ = conn.CloseNow() })
	return conn
}

// counts are how many events came, and how many of them again.
func (m *members) counts() (distinct, repeats int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.times), m.all - len(m.times)
}

// awaitMore waits until n more events have come.
func (m *members) awaitMore(n int) {
	m.w.t.Helper()
	before, _ := m.counts()
	m.await(before + n)
}

// await waits until n events have come, for as long as some come at least every minute.
func (m *members) await(n int) {
	m.w.t.Helper()
	for {
		have, _ := m.counts()
		if have >= n {
			return
		}
		eventually(m.w.t, "events come to the group", func() bool { now, _ := m.counts(); return now > have })
	}
}

// expectAll waits until the events 1 to n have come, and gives the number of repeats.
func (m *members) expectAll(n uint64) int {
	m.w.t.Helper()
	m.await(int(n))
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := uint64(1); i <= n; i++ {
		if m.times[i] == 0 {
			m.w.t.Errorf("event %d was not received by any member", i)
		}
	}
	return m.all - len(m.times)
}

// startEdgeChild runs an edge in a process of its own, until it is ready.
func (w *world) startEdgeChild() *process {
	w.t.Helper()
	p := startProcess(w.t, edgeChild, append(w.settings(w.natsURL), "HTTP__BIND_ADDR=127.0.0.1:0",
		"EDGE__APPLICATIONS_FILE="+w.file, "RUNTIME__LOG__LEVEL=warn", "RUNTIME__LOG__FORMAT=console"))
	eventually(w.t, "the edge is ready", func() bool {
		answer, err := http.Get("http://" + p.health + "/readiness")
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	return p
}

// TestAGroupLosesNothingWhenEdgesAreKilled kills one of two edges again and again.
// CANOPY_TEST_GROUP_RATE is the load in events a second, CANOPY_TEST_GROUP_KILLS how often.
func TestAGroupLosesNothingWhenEdgesAreKilled(t *testing.T) {
	speed, kills := fromEnviron(t, "CANOPY_TEST_GROUP_RATE", 500), fromEnviron(t, "CANOPY_TEST_GROUP_KILLS", 3)
	w := newWorld(t, setup{public: map[string]int32{"busy": 1}})
	w.startIngest(w.natsURL)
	w.startEdge(w.natsURL)
	m := w.members()
	path := w.path("busy", "")
	for range 4 {
		m.join(w.edge.HTTP, path)
	}
	join := func() *process {
		p := w.startEdgeChild()
		for range 4 {
			m.join(p.http, path)
		}
		m.dial(p.http, path) // so that something is in flight for sure when the edge is killed
		return p
	}
	victim := join()
	load := w.startLoad(speed, 0, source{"busy", 0, ""})
	began := time.Now()
	m.awaitMore(speed)
	if _, repeats := m.counts(); repeats != 0 {
		t.Errorf("%d events came again before any fault", repeats)
	}
	for range kills {
		until := w.metric(victim.health, "canopy_edge_group_deliveries_total") + float64(speed)/2
		eventually(t, "the edge has given events to its members", func() bool {
			return w.metric(victim.health, "canopy_edge_group_deliveries_total") > until
		})
		if !victim.kill() {
			t.FailNow()
		}
		victim = join()
	}
	took := time.Since(began)
	n := load.stop()
	repeats := m.expectAll(n)
	again := w.metric(w.edge.Health, "canopy_edge_group_redelivered_total") + w.metric(victim.health, "canopy_edge_group_redelivered_total")
	t.Logf("%d events (%.0f a second), %d kills: NATS sent %v again, members got %d again", n, float64(n)/took.Seconds(), kills, again, repeats)
	if repeats > kills*groupWindow {
		t.Errorf("%d events came again in %d kills, more than were in flight", repeats, kills)
	}
	if again == 0 {
		t.Error("nothing was in flight when an edge was killed: the fault did not happen")
	}
}

func TestAGroupLosesAndRepeatsNothingWhenIngestIsKilled(t *testing.T) {
	const kills = 3
	w := newWorld(t, setup{public: map[string]int32{"busy": 1}})
	ingest := w.startChild(w.natsURL)
	w.startEdge(w.natsURL)
	m := w.members()
	for range 4 {
		m.join(w.edge.HTTP, w.path("busy", ""))
	}
	load := w.startLoad(rate, 0, source{"busy", 0, ""})
	for range kills {
		m.awaitMore(rate)
		if !ingest.kill() {
			t.FailNow()
		}
		ingest = w.startChild(w.natsURL)
	}
	m.awaitMore(rate)
	if repeats := m.expectAll(load.stop()); repeats != 0 {
		t.Errorf("%d events came again", repeats)
	}
}
