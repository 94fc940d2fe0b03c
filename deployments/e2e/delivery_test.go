//go:build linux

package e2e

import (
	"fmt"
	"testing"
	"time"

	"canopy/bench/drain"
)

func TestTwoApplicationsAndTheirChannelsNeverMix(t *testing.T) {
	const partitions, sockets = 2, 5
	w := start(t, setup{public: map[string]int32{"one": partitions, "two": partitions}})
	fleets, sources := map[string]*drain.Fleet{}, []source{}
	for _, application := range []string{"one", "two"} {
		for p := range int32(partitions) {
			// The same channels in both, and characters that a path must escape.
			s := source{application, p, fmt.Sprintf("floor %d/té?mp", p)}
			sources = append(sources, s)
			fleets[fmt.Sprint(s)] = w.fleet(s.application, s.channel, sockets)
		}
	}
	whole := w.open(w.path("one", ""), nil)
	load := w.startLoad(1000, 0, sources...)
	eventually(t, "some thousand events arrive", func() bool {
		for _, f := range fleets {
			if had(f) < 2000 {
				return false
			}
		}
		return true
	})
	n := load.stop()
	for what, f := range fleets {
		expectAll(t, what, f, n)
	}
	for range partitions * n {
		if got := decode(t, read(t, whole)); got["application"] != w.app("one") {
			t.Fatalf("a socket of application one got %v", got)
		}
	}
}

func TestTopicMadeLaterIsReadWithinTenSeconds(t *testing.T) {
	w := start(t, setup{public: map[string]int32{"old": 1, "young": 0}})
	old, young := w.open(w.path("old", ""), nil), w.open(w.path("young", ""), nil)
	w.produce(w.numbered("old", "", 1, 0))
	read(t, old) // ingest reads, so it knows all topics that there are
	made := time.Now()
	w.makeTopic("young", 1)
	w.produce(w.numbered("young", "", 1, 0))
	got := decode(t, read(t, young))
	if took := time.Since(made); took > 10*time.Second {
		t.Errorf("the first event of a new topic took %v", took)
	}
	if got["id"] != "1" {
		t.Errorf("got %v, want the first event", got)
	}
}
