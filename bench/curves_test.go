//go:build linux

package main

import (
	"fmt"
	"strings"
	"testing"

	"canopy/bench/load"
	"canopy/bench/report"
)

func TestTheLastPointOfEachSmallCurveIsMeasured(t *testing.T) {
	o, err := parse([]string{"-rows", "curves", "-edge", built(t, "edge"), "-rounds", "1"})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"| 20 sockets | 1 | 100 | 2,000 |", "| 10 applications | 1 | 1,000 | 2,000 |", "| 65,536 bytes | 1 | 2 | 40 |", "| 8 edges | 8 | 100 | 2,000 |",
	} {
		c := curvesOf(512, 20)[i]
		c.points = c.points[len(c.points)-1:]
		got, err := c.points[0].measure(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if err := (report.Report{Prefix: "curves", Rows: []report.Row{c.row([]curveReading{got})}}).Write(&text); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{want, fmt.Sprintf("curves-%db.svg", i+1)} {
			if !strings.Contains(text.String(), want) {
				t.Errorf("results have no %q:\n%s", want, &text)
			}
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
