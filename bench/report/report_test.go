package report

import (
	"strings"
	"testing"
)

func TestAResultShowsMedianSpreadAndVerdict(t *testing.T) {
	for _, test := range []struct {
		result        Result
		text, verdict string
	}{
		{Result{Values: []float64{1.3, 1.1, 1.2}, Digits: 2, Goal: &Goal{Value: 1.25}}, "1.20 (1.10 to 1.30)", "≤ 1.25: met"},
		{Result{Values: []float64{8, 12, 9, 10}, Digits: 1, Goal: &Goal{AtLeast: true, Value: 10}}, "9.5 (8.0 to 12.0)", "≥ 10: **missed**"},
		{Result{Values: []float64{1500}, Unit: "bytes", Goal: &Goal{Value: 1600}}, "1500 bytes", "≤ 1600 bytes: met"},
		{Result{}, "not measured", ""},
	} {
		if test.result.String() != test.text || test.result.Verdict() != test.verdict {
			t.Errorf("%q and %q instead of %q and %q", test.result, test.result.Verdict(), test.text, test.verdict)
		}
	}
}

func TestTheReportIsMarkdown(t *testing.T) {
	var b strings.Builder
	err := Report{
		Command: "go run ./bench",
		Facts:   []Fact{{"machine", "2 cores"}},
		Notes:   []string{"All in one run."},
		Rows: []Row{{
			Title: "1. Writing", What: "Written often.",
			Results: []Result{{Name: "ratio", Values: []float64{2}}},
			Shows:   []string{"It writes.", "It ends."},
			Head:    []string{"round", "writes"}, Raw: [][]string{{"1", Count(1234567)}},
		}},
	}.Write(&b)
	const want = "# Canopy's bench: results\n\nMade by `go run ./bench`; do not edit.\n\n- machine: 2 cores\n" +
		"\nAll in one run.\n\n## 1. Writing\n\nWritten often.\n\n" +
		"| figure | median (smallest to largest) | goal |\n| --- | --- | --- |\n| ratio | 2 |  |\n" +
		"\nWhat this run shows:\n\n- It writes.\n- It ends.\n" +
		"\nRaw counts:\n\n| round | writes |\n| --- | --- |\n| 1 | 1,234,567 |\n"
	if err != nil || b.String() != want {
		t.Errorf("%v:\n%s", err, b.String())
	}
}

func TestCountPutsCommasBetweenThousands(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 30_000_000: "30,000,000"} {
		if got := Count(n); got != want {
			t.Errorf("%d is %q", n, got)
		}
	}
}
