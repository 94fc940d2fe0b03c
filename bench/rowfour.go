//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"canopy/bench/drain"
	"canopy/bench/gateway"
	"canopy/bench/load"
	"canopy/bench/report"
	"canopy/bench/under"
)

const (
	goalSocket = 1600 // bytes per idle socket
	goalMemory = 5    // a peer's bytes per idle socket by Canopy's
)

// idler is the resident memory of a peer without sockets and with all of them, in bytes.
type idler struct {
	name          string
	before, after int64
}

// peerMemory measures the servers that have goroutines for each connection, one after the
// other.
func (s *stage) peerMemory(ctx context.Context) (all []idler, err error) {
	for _, library := range []string{gateway.GWS, gateway.Coder} {
		i, err := s.idle(ctx, library)
		if err != nil {
			return nil, fmt.Errorf("row 4: %s: %w", library, err)
		}
		progress("row 4: %s: %s bytes per socket", library, report.Count(uint64(i.after-i.before)/uint64(s.opts.sockets)))
		all = append(all, i)
	}
	return all, nil
}

func (s *stage) idle(ctx context.Context, library string) (i idler, err error) {
	peer, err := gateway.Start(gateway.Config{Library: library, NATS: s.nats.URL(), Application: load.Application, Queue: s.opts.latency.queue})
	if err != nil {
		return i, err
	}
	defer func() { err = errors.Join(err, peer.Stop()) }()
	resident := func() (int64, error) {
		if err := peer.Collect(); err != nil {
			return 0, err
		}
		return under.Settled(ctx, peer.PID())
	}
	i.name = library
	if i.before, err = resident(); err != nil {
		return i, err
	}
	crew, err := drain.Start(drain.Config{URL: peer.URL(), Sockets: s.opts.sockets}, s.opts.clients, openPatience)
	if err != nil {
		return i, err
	}
	defer func() { err = errors.Join(crew.Stop(), err) }()
	if err := peer.Await(s.opts.sockets, openPatience); err != nil {
		return i, err
	}
	i.after, err = resident()
	return i, err
}

// rowFour is the memory per idle socket.
func rowFour(o options, before, after under.Memory, peers []idler) report.Row {
	per := func(a, b int64) float64 { return float64(b-a) / float64(o.sockets) }
	mine := per(before.Resident, after.Resident)
	row := report.Row{
		Title: "4. Memory per idle socket",
		What: fmt.Sprintf("The server's process before and after %d sockets were opened to one application, garbage collected "+
			"both times, divided by the number of sockets. Resident memory has everything in it but the kernel's own buffers, "+
			"also what the first socket of all needs. *gws* and *coder/websocket* are servers made with these libraries in the plain way, with nats.go and goroutines per connection.", o.sockets),
		Results: []report.Result{
			{Name: "Canopy, resident memory per socket", Values: []float64{mine}, Unit: "bytes", Goal: &report.Goal{Value: goalSocket}},
			{Name: "Canopy, heap in use per socket", Values: []float64{per(before.HeapInUse, after.HeapInUse)}, Unit: "bytes"},
			{Name: "Canopy, stacks per socket", Values: []float64{per(before.Stacks, after.Stacks)}, Unit: "bytes"},
		},
		Head: []string{"server", "sockets", "resident bytes", "heap in use, bytes", "stacks, bytes"},
		Raw:  [][]string{memoryCells(0, before), memoryCells(o.sockets, after)},
	}
	bars := []string{row.Results[0].Name}
	for _, p := range peers {
		bytes := per(p.before, p.after)
		row.Results = append(row.Results,
			report.Result{Name: "ratio: resident memory per socket, " + p.name + " to Canopy", Values: []float64{bytes / mine}, Digits: 1, Goal: &report.Goal{AtLeast: true, Value: goalMemory}},
			report.Result{Name: p.name + ", resident memory per socket", Values: []float64{bytes}, Unit: "bytes"})
		bars = append(bars, row.Results[len(row.Results)-1].Name)
		row.Raw = append(row.Raw, []string{p.name, "0", report.Count(uint64(p.before)), "", ""},
			[]string{p.name, strconv.Itoa(o.sockets), report.Count(uint64(p.after)), "", ""})
	}
	row.Pictures = []report.Picture{{Title: row.Title, Axis: "bytes", Bars: row.Pick(bars...)}}
	return row
}

func memoryCells(sockets int, m under.Memory) []string {
	return []string{"Canopy", strconv.Itoa(sockets), report.Count(uint64(m.Resident)), report.Count(uint64(m.HeapInUse)), report.Count(uint64(m.Stacks))}
}
