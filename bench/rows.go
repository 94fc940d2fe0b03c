//go:build linux

package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"canopy/bench/report"
)

// Goals of the rows.
const (
	goalCPU   = 1.15 // Canopy's CPU per delivery by the floor's
	goalBurst = 10   // Canopy's deliveries a second by the floor's
)

// rowOne is the CPU per delivery of events that come one at a time.
func rowOne(ctx context.Context, o options, all []*contestant) (report.Row, error) {
	samples, err := rounds(ctx, o, "1", all, func(*contestant) (int, int) { return o.events, 1 })
	if err != nil {
		return report.Row{}, err
	}
	row := report.Row{
		Title: "1. CPU per delivery, one event at a time",
		What: fmt.Sprintf("%d events of %d bytes, each sent when all %d sockets have had the one before. The processor time "+
			"is that of the server's process, user and system, less what it uses without events. The goal stands against the floor with one thread, a bare loop over all sockets; "+
			"the other one shares them between a thread per core.", o.events, o.size, o.sockets),
	}
	cpu := sample.cpuPerDelivery
	for i := 1; i < len(all); i++ {
		r := report.Result{Name: "ratio: Canopy to " + all[i].name, Values: ratios(samples[0], samples[i], cpu), Digits: 3}
		if i == 1 {
			r.Goal = &report.Goal{Value: goalCPU}
		}
		row.Results = append(row.Results, r)
	}
	for i, c := range all {
		row.Results = append(row.Results, report.Result{Name: c.name, Values: each(samples[i], cpu), Unit: "ns"})
	}
	row.Pictures = []report.Picture{{Title: row.Title, Axis: "CPU of the server's process per delivery, ns", Bars: row.Pick(namesOf(all)...)}}
	row.Head, row.Raw = rawTable(all, samples)
	return row, nil
}

// rowTwo is the throughput of a burst.
func rowTwo(ctx context.Context, o options, all []*contestant) (report.Row, error) {
	samples, err := rounds(ctx, o, "2", all, func(c *contestant) (int, int) { return c.burst, c.burst })
	if err != nil {
		return report.Row{}, err
	}
	row := report.Row{
		Title: "2. Deliveries per second in a burst",
		What: fmt.Sprintf("%d events of %d bytes, published at once, to %d sockets; the time is from the first publish to the "+
			"last delivery, the way through NATS included. The floor gets %d events: it calls write for each of them and socket, "+
			"so its rate does not depend on their number. The goal stands against the floor with the most threads.", o.burst, o.size, o.sockets, o.floorBurst),
	}
	for i := 1; i < len(all); i++ {
		r := report.Result{Name: "ratio: Canopy to " + all[i].name, Values: ratios(samples[0], samples[i], sample.rate), Digits: 2}
		if i == len(all)-1 { // Canopy writes from all cores, so the floor that counts does too
			r.Goal = &report.Goal{AtLeast: true, Value: goalBurst}
		}
		row.Results = append(row.Results, r)
	}
	for i, c := range all {
		row.Results = append(row.Results, report.Result{Name: c.name, Values: each(samples[i], sample.rate), Unit: "deliveries/s"})
	}
	row.Pictures = []report.Picture{{Title: row.Title, Axis: "deliveries/s", Log: true, Bars: row.Pick(namesOf(all)...)}}
	row.Head, row.Raw = rawTable(all, samples)
	return row, nil
}

func namesOf(all []*contestant) (names []string) {
	for _, c := range all {
		names = append(names, c.name)
	}
	return names
}

func each(samples []sample, figure func(sample) float64) (values []float64) {
	for _, s := range samples {
		values = append(values, figure(s))
	}
	return values
}

// ratios are a's figures by b's, round by round.
func ratios(a, b []sample, figure func(sample) float64) (values []float64) {
	for i := range a {
		values = append(values, figure(a[i])/figure(b[i]))
	}
	return values
}

func rawTable(all []*contestant, samples [][]sample) (head []string, raw [][]string) {
	head = []string{"round", "server", "events", "deliveries", "seconds", "server's CPU seconds", "CPU ns per delivery",
		"deliveries/s", "bytes on the wire", "bytes per delivery", "client's reads", "p50 ms", "p99 ms"}
	for round := range samples[0] {
		for i, c := range all {
			s := samples[i][round]
			raw = append(raw, []string{
				strconv.Itoa(round + 1), c.name, strconv.Itoa(s.events), report.Count(s.deliveries),
				fmt.Sprintf("%.3f", s.took.Seconds()), fmt.Sprintf("%.3f", s.cpu.Seconds()),
				fmt.Sprintf("%.0f", s.cpuPerDelivery()), report.Count(uint64(s.rate())),
				report.Count(s.bytes), fmt.Sprintf("%.1f", float64(s.bytes)/float64(s.deliveries)), report.Count(s.reads),
				milliseconds(s.p50), milliseconds(s.p99),
			})
		}
	}
	return head, raw
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond))
}
