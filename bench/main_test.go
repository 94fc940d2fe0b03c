//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"canopy/bench/drain"
	"canopy/bench/load"
	"canopy/bench/under"
	"canopy/shared/event"
)

// TestMain lets the test's program be the bench's processes.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if serve, ok := children[os.Args[1]]; ok {
			if err := serve(os.Stdin, os.Stdout); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// built builds canopy-NAME without a profile, which is quicker.
func built(t *testing.T, name string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "canopy-"+name)
	if out, err := exec.Command("go", "build", "-o", program, "../"+name).CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return program
}

func TestASmallBenchWritesEveryRow(t *testing.T) {
	edge, results := built(t, "edge"), filepath.Join(t.TempDir(), "RESULTS.md")
	o, err := parse([]string{"-edge", edge, "-ingest", built(t, "ingest"), "-out", results, "-sockets", "51", "-rounds", "2", "-events", "3", "-burst", "100", "-floor-burst", "50",
		"-stall-sockets", "60", "-stalled", "10", "-rate", "25", "-phase", "2s", "-group-members", "3", "-group-events", "700", "-handshakes", "30",
		"-saturation-burst", "20", "-peer-queue", "5000", "-latency-phase", "1s", "-way-events", "300", "-way-sockets", "6", "-ingest-records", "700",
		"-scale-sockets", "61", "-scale-edges", "2", "-scale-few", "11", "-quiet-sockets", "7", "-busy-sockets", "13", "-busy-burst", "50", "-quiet-phase", "1s"})
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"results.svg", "results-1.svg", "results-5.svg", "results-12.svg"} {
		if svg, err := os.ReadFile(filepath.Join(filepath.Dir(results), name)); err != nil || !strings.Contains(string(svg), "Canopy") && name != "results.svg" && name != "results-12.svg" {
			t.Errorf("%s: %v:\n%s", name, err, svg)
		}
	}
	for _, want := range []string{"## 1. ", "## 2. ", "## 3. ", "| 2 | whole way | 300 | 1,800 |", "| 2 | edge fed from memory | 300 | 1,800 |", "## 4. ", "## 5. ", "| gws | 51 |", "| coder/websocket | 51 |", "| 2 | coder/websocket | ", "## 6. ", "## 7. ", "## 8. ", "| 2 | polling alone | 700 |", "| 2 | publishing alone | 700 |", "## 9. ", "| 2 | net/http and gws | 30 |", "## 10. ", "| 2 | Canopy, 61 sockets, 2 edges | 2 | 122 |", "| 2 | floor, 61 sockets | 2 | 122 |", "| 2 | floor, 11 sockets | 11 | 121 |",
		"## 12. ", "| 2 | beside | 50 | 350 |", "| 2 | Canopy | 3 | 153 |", "| 2 | Canopy | 100 | 5,100 |", "| 2 | floor, 1 thread | 50 | 2,550 |",
		"| 2 | stalled | 50 | 2,500 |", "| 2 | Canopy | 700 |", "| 2 | bare consumer | 700 |", "| 2 | NATS by WebSocket | 700 |", "| 10 | 1"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("results have no %q:\n%s", want, text)
		}
	}
}

func TestARunInWhichNobodyStallsFails(t *testing.T) {
	results := filepath.Join(t.TempDir(), "RESULTS.md")
	o, err := parse([]string{"-edge", built(t, "edge"), "-out", results, "-rows", "6", "-rounds", "1",
		"-stall-sockets", "20", "-stalled", "5", "-stall-burst", "1", "-rate", "10", "-phase", "2s"})
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "none has stalled") {
		t.Errorf("error is %v", err)
	}
	if _, err := os.Stat(results); err == nil {
		t.Error("results were written")
	}
}

func TestADisturbedNATSFailsTheRun(t *testing.T) {
	before := under.NATSCounts{Connections: 3, Total: 5, SlowConsumers: 1}
	if err := undisturbed(before, before); err != nil {
		t.Errorf("an undisturbed NATS fails: %v", err)
	}
	for _, after := range []under.NATSCounts{
		{Connections: 2, Total: 5, SlowConsumers: 1}, {Connections: 3, Total: 6, SlowConsumers: 1},
		{Connections: 3, Total: 5, SlowConsumers: 2}, {Connections: 3, Total: 5, SlowConsumers: 1, Stale: 1},
	} {
		if undisturbed(before, after) == nil {
			t.Errorf("%+v: no error", after)
		}
	}
}

func TestBadFlagsAreRefusedTogether(t *testing.T) {
	_, err := parse([]string{"-sockets", "0", "-rounds", "0", "-size", "10", "-rows", "1,77",
		"-stall-sockets", "5", "-stalled", "5", "-stall-burst", "0", "-rate", "0", "-phase", "1s", "-group-members", "0", "-group-events", "-1", "-handshakes", "0",
		"-saturation-burst", "65", "-latency-phase", "1ms", "-way-events", "1", "-way-sockets", "0", "-ingest-records", "0",
		"-scale-few", "200000", "-busy-burst", "0", "-quiet-rate", "0"})
	for _, want := range []string{"-sockets", "-rounds", "-size", "77", "-stalled", "-stall-burst", "-rate", "-phase", "-group-members", "-group-events", "-handshakes", "-saturation-burst", "-latency-phase", "-way-events", "-way-sockets", "-ingest-records", "-scale-few", "-busy-burst", "-quiet-rate"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
}

func TestARunThatIsNotExactFails(t *testing.T) {
	const sockets, events = 10, 7
	good := drain.Snapshot{Sockets: 10, Open: 10, Events: 70, Bytes: uint64(70 * (4 + load.MinSize + event.CursorSuffixLen))}
	if err := verify(good, sockets, load.MinSize, events); err != nil {
		t.Errorf("an exact run fails: %v", err)
	}
	for name, spoil := range map[string]func(*drain.Snapshot){
		"lost":       func(s *drain.Snapshot) { s.Holes = 1 },
		"repeated":   func(s *drain.Snapshot) { s.Repeats = 1 },
		"reordered":  func(s *drain.Snapshot) { s.Reorders = 1 },
		"malformed":  func(s *drain.Snapshot) { s.Malformed = 1 },
		"too few":    func(s *drain.Snapshot) { s.Events-- },
		"too many":   func(s *drain.Snapshot) { s.Events++ },
		"gap events": func(s *drain.Snapshot) { s.Others = 1 },
		"closed":     func(s *drain.Snapshot) { s.Open-- },
		"too short":  func(s *drain.Snapshot) { s.Bytes = 70 * 100 },
	} {
		bad := good
		spoil(&bad)
		if verify(bad, sockets, load.MinSize, events) == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAGroupThatIsNotExactFails(t *testing.T) {
	exact := func() drain.Snapshot {
		s := drain.Snapshot{Sockets: 2, Open: 2, Events: 3, Numbers: &drain.Numbers{}}
		for n := uint64(7); n <= 9; n++ {
			s.Numbers.Add(n)
		}
		return s
	}
	if err := exactlyOnce(exact(), 7, 9); err != nil {
		t.Errorf("an exact round fails: %v", err)
	}
	if exactlyOnce(exact(), 7, 10) == nil || exactlyOnce(exact(), 8, 10) == nil {
		t.Error("lost: no error")
	}
	for name, spoil := range map[string]func(*drain.Snapshot){
		"repeated":       func(s *drain.Snapshot) { s.Repeats = 1 },
		"too many":       func(s *drain.Snapshot) { s.Events++ },
		"gap events":     func(s *drain.Snapshot) { s.Others = 1 },
		"closed":         func(s *drain.Snapshot) { s.Open-- },
		"did not answer": func(s *drain.Snapshot) { s.LostPongs = 1 },
	} {
		bad := exact()
		spoil(&bad)
		if exactlyOnce(bad, 7, 9) == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
