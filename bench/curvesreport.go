//go:build linux

package main

import (
	"fmt"
	"strconv"

	"canopy/bench/report"
)

// row is the curve's part of the report.
func (c curve) row(readings []curveReading) report.Row {
	row := report.Row{
		Title: c.title,
		What:  c.what,
		Head: []string{"point", "edges", "events of a round", "deliveries of a round", "edges' CPU ns per delivery", "of it in the kernel %", "deliveries/s", "p50 ms", "to the last ms",
			"NATS' CPU µs per event, what it uses anyway included", "resident bytes per socket", "opened sockets/s"},
	}
	memory := report.Picture{Title: c.title + ": memory", Axis: "resident memory of the edges per socket, bytes"}
	for i, p := range c.points {
		r := readings[i]
		result := report.Result{Name: p.name, Unit: "ns of edges' CPU per delivery", Values: r.cpu}
		row.Results = append(row.Results, result)
		memory.Bars = append(memory.Bars, report.Result{Name: p.name, Values: []float64{r.resident}})
		row.Raw = append(row.Raw, []string{p.name, strconv.Itoa(p.edges), report.Count(r.events), report.Count(r.deliveries),
			fmt.Sprintf("%.0f", report.Median(r.cpu)), fmt.Sprintf("%.0f", report.Median(r.system)), report.Count(uint64(report.Median(r.rates))),
			fmt.Sprintf("%.1f", report.Median(r.p50)), fmt.Sprintf("%.1f", report.Median(r.last)), fmt.Sprintf("%.1f", report.Median(r.natsCPU)),
			fmt.Sprintf("%.0f", r.resident), fmt.Sprintf("%.0f", r.opening)})
	}
	if first, last := 0, len(readings)-1; last > first {
		row.Shows = append(row.Shows, fmt.Sprintf("From %s to %s the edges' CPU per delivery goes from %.0f to %.0f ns: the kernel's part from %.0f to %.0f ns, Canopy's own from %.0f to %.0f ns.",
			c.points[first].name, c.points[last].name, report.Median(readings[first].cpu), report.Median(readings[last].cpu),
			readings[first].part(true), readings[last].part(true), readings[first].part(false), readings[last].part(false)))
	}
	row.Pictures = []report.Picture{{Title: c.title, Axis: "CPU of the edges per delivery, ns", Log: true, Bars: row.Results}, memory}
	return row
}

// part is the edges' CPU per delivery in the kernel, or in user space.
func (r curveReading) part(kernel bool) float64 {
	share := report.Median(r.system) / 100
	if !kernel {
		share = 1 - share
	}
	return share * report.Median(r.cpu)
}

// curvesNote is beside those of every row.
const curvesNote = "Each point has servers and sockets of its own. Events come one at a time, each when all sockets have had the one before, so none of Canopy's batching helps: " +
	"a delivery is a call of write. The share of the kernel is in steps of 10 ms of processor time."

// countOf is plural with commas between thousands.
func countOf(n int, what string) string {
	text := report.Count(uint64(n)) + " " + what
	if n != 1 {
		text += "s"
	}
	return text
}
