package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// texts are the texts of an SVG; it fails if that is not well-formed.
func texts(t *testing.T, svg []byte) (all []string) {
	t.Helper()
	decoder := xml.NewDecoder(bytes.NewReader(svg))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%v:\n%s", err, svg)
		}
		if text, ok := token.(xml.CharData); ok && len(bytes.TrimSpace(text)) > 0 {
			all = append(all, strings.TrimSpace(string(text)))
		}
	}
}

func TestAPictureNamesItsBarsAndItsAxis(t *testing.T) {
	for _, log := range []bool{false, true} {
		var b bytes.Buffer
		p := Picture{Title: "Rates & goals", Axis: "events/s", Log: log, Bars: []Result{
			{Name: "Canopy", Values: []float64{1, 30, 10_000}}, {Name: "floor", Values: []float64{7}},
		}}
		if err := p.Write(&b); err != nil {
			t.Fatal(err)
		}
		got := texts(t, b.Bytes())
		for _, want := range []string{"Rates & goals", "events/s", "Canopy", "floor", "10,000"} {
			if !slices.Contains(got, want) {
				t.Errorf("log %t: no %q among %q", log, want, got)
			}
		}
	}
	if err := (Picture{Log: true, Bars: []Result{{Values: []float64{0}}}}).Write(io.Discard); err == nil {
		t.Error("0 among powers of ten: no error")
	}
}

func TestAReportShowsThePicturesThatItHas(t *testing.T) {
	goal := &Goal{Value: 2}
	r := Report{Prefix: "results", Rows: []Row{
		{Title: "7. Groups", Results: []Result{{Name: "ratio: a", Values: []float64{1}, Goal: goal}}, Pictures: []Picture{{Title: "one"}, {Title: "two"}}},
		{Title: "Crowds", Results: []Result{{Name: "b", Values: []float64{4}, Goal: &Goal{Value: 8, AtLeast: true}}}},
	}}
	var b strings.Builder
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	pictures := r.Pictures()
	for _, file := range []string{"results.svg", "results-7.svg", "results-7b.svg"} {
		if _, ok := pictures[file]; !ok || strings.Count(b.String(), "]("+file+")") != 1 {
			t.Errorf("%s: picture %t, report:\n%s", file, ok, b.String())
		}
	}
	if len(pictures) != 3 {
		t.Errorf("%d pictures", len(pictures))
	}
	bars := pictures["results.svg"].Bars
	if len(bars) != 2 || bars[0].Name != "7: a" || bars[0].Values[0] != 0.5 || bars[1].Values[0] != 2 {
		t.Errorf("parts of the goals: %+v", bars)
	}
	r.Prefix, b = "", strings.Builder{}
	if err := r.Write(&b); err != nil || strings.Contains(b.String(), ".svg") {
		t.Errorf("without a prefix: %v\n%s", err, b.String())
	}
}
