//go:build linux

package main

import (
	"strings"
	"testing"
	"time"

	"canopy/bench/drain"
)

// phasesWith makes one phase per delay, in which every event took that long.
func phasesWith(delays ...time.Duration) (phases []phase) {
	for _, d := range delays {
		var seen drain.Snapshot
		seen.Latency.Record(d)
		phases = append(phases, phase{seen: seen})
	}
	return phases
}

func TestRowSixSaysWhenItsMachineWasTooNoisyToJudge(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		name  string
		alone []time.Duration
		want  string
	}{
		{"calm", []time.Duration{100 * ms, 110 * ms, 100 * ms}, "calm enough"},
		{"slower", []time.Duration{100 * ms, 100 * ms, 150 * ms}, "too noisy"},
		{"faster", []time.Duration{150 * ms, 100 * ms, 100 * ms}, "too noisy"},
		{"one round", []time.Duration{100 * ms}, "One round"},
	} {
		r := rowSixResults{o: stallOptions{stalled: 1}, phases: [companies][]phase{
			alone: phasesWith(test.alone...), reading: phasesWith(test.alone...), stalled: phasesWith(test.alone...),
		}}
		if got := r.row().Shows[0]; !strings.Contains(got, test.want) {
			t.Errorf("%s: %s", test.name, got)
		}
	}
}

func TestNoCompanyAlwaysComesBehindTheSameOne(t *testing.T) {
	before := map[company]map[company]bool{}
	for round := range 5 {
		met := map[company]bool{}
		for turn := range companies {
			with := turnOf(round, turn)
			met[with] = true
			if turn == 0 {
				continue
			}
			if before[with] == nil {
				before[with] = map[company]bool{}
			}
			before[with][turnOf(round, turn-1)] = true
		}
		if len(met) != int(companies) {
			t.Errorf("round %d has only %v", round, met)
		}
	}
	for with := range companies {
		if len(before[with]) < 2 {
			t.Errorf("%s comes only behind %v", with, before[with])
		}
	}
}
