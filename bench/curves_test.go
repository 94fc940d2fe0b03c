//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"canopy/bench/load"
)

func TestSmallCurvesHaveEveryPoint(t *testing.T) {
	results := filepath.Join(t.TempDir(), "CURVES.md")
	o, err := parse([]string{"-rows", "curves", "-edge", builtEdge(t), "-rounds", "1", "-curve-sockets", "20", "-out", results})
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
	for _, want := range []string{"| 20 sockets | 1 | 2,500 | 50,000 |", "| 10 applications | 1 | 25,000 | 50,000 |", "| 65536 bytes | 1 | 2 | 40 |", "| 8 edges | 8 | 2,500 | 50,000 |", "curves-4b.svg"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("results have no %q:\n%s", want, text)
		}
	}
}

func TestNoPointOfACurveIsMoreThanAnEdgeHolds(t *testing.T) {
	for _, most := range []int{1, 5_000, 20_000, 100_000, 400_000} {
		for _, c := range curvesOf(512, most) {
			for i, p := range c.points {
				if p.sockets > p.edges*curveEdgeMost || p.applications > p.sockets || p.size < load.MinSize || p.sockets < p.edges {
					t.Errorf("most %d: %+v", most, p)
				}
				if i > 0 && p == c.points[i-1] {
					t.Errorf("most %d: %s has %+v twice", most, c.title, p)
				}
			}
		}
	}
}
