//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sync/errgroup"

	"canopy/bench/drain"
	"canopy/bench/floor"
	"canopy/bench/load"
	"canopy/bench/report"
	"canopy/bench/under"
)

const (
	goalScale = 1.2 // what CPU per delivery grows by, by what the floor's does

	fewApplication = load.Application + "-few"
)

// scaleOptions are the flags of row 10.
type scaleOptions struct {
	many   int // sockets
	edges  int // that share them
	few    int // sockets of one edge
	events int // per round, to the many
}

func (o scaleOptions) check() error {
	if o.edges < 1 || o.few < 1 || o.many < max(o.edges, o.few) || o.events < 1 {
		return errors.New("-scale-sockets, -scale-few, -scale-edges, -scale-events: expected at least 1, and -scale-sockets to be the most")
	}
	return nil
}

// fewEvents is how many events make as many deliveries to the few.
func (o scaleOptions) fewEvents() int { return o.events * o.many / o.few }

// scale is a stage with many sockets at several edges, and at as many floors, and with few
// sockets at one edge and one floor.
type scale struct {
	*stage
	edges  []*under.Edge
	floors []*floor.Process
}

// The contestants of row 10, in their order.
const (
	manyCanopy = iota
	fewCanopy
	manyFloor
	fewFloor
)

// rowTen is what CPU per delivery does when sockets are many.
func rowTen(ctx context.Context, o options) (row report.Row, err error) {
	s := &scale{stage: &stage{opts: o, access: under.Public(load.Application, fewApplication)}}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.stage.open(ctx); err != nil {
		return row, err
	}
	all, err := s.contestants(ctx)
	if err != nil {
		return row, err
	}
	if err := warm(ctx, all); err != nil {
		return row, err
	}
	samples, err := rounds(ctx, o, "10", all, func(c *contestant) (int, int) { return c.burst, 1 })
	if err != nil {
		return row, err
	}
	return rowTenResults(o, all, samples), nil
}

// contestants starts all servers and opens all sockets.
func (s *scale) contestants(ctx context.Context) ([]*contestant, error) {
	o := s.opts.scale
	few, err := load.OpenStream(ctx, s.conn, fewApplication, s.opts.size)
	if err != nil {
		return nil, err
	}
	all := []*contestant{
		{name: fmt.Sprintf("Canopy, %d sockets, %s", o.many, plural(o.edges, "edge")), sockets: o.many, burst: o.events,
			send: func(ctx context.Context, events int) error { return s.stream.Publish(ctx, events, 0) }},
		{name: fmt.Sprintf("Canopy, %d sockets", o.few), sockets: o.few, burst: o.fewEvents(), pids: []int{s.edge.PID()},
			send: func(ctx context.Context, events int) error { return few.Publish(ctx, events, 0) }},
		{name: fmt.Sprintf("floor, %d sockets", o.many), sockets: o.many, burst: o.events, send: s.sendFloors},
		{name: fmt.Sprintf("floor, %d sockets", o.few), sockets: o.few, burst: o.fewEvents()},
	}
	if all[fewCanopy].crew, err = s.crew(s.edge.URLOf(fewApplication), o.few); err != nil {
		return nil, err
	}
	one, crew, err := s.startFloor(o.few)
	if err != nil {
		return nil, err
	}
	s.floor = one // which the stage ends
	all[fewFloor].crew, all[fewFloor].pids = crew, []int{one.PID()}
	all[fewFloor].send = func(_ context.Context, events int) error { _, err := one.Send(events, 1); return err }
	var edgeCrews, floorCrews []*drain.Crew
	for i := range o.edges {
		sockets := o.many*(i+1)/o.edges - o.many*i/o.edges
		dir := filepath.Join(s.dir, "edge-"+strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make folder: %w", err)
		}
		edge, err := s.startEdge(ctx, dir)
		if err != nil {
			return nil, err
		}
		s.edges = append(s.edges, edge)
		crew, err := s.crew(edge.URL(), sockets)
		if err != nil {
			return nil, err
		}
		edgeCrews = append(edgeCrews, crew)
		all[manyCanopy].pids = append(all[manyCanopy].pids, edge.PID())
		f, crew, err := s.startFloor(sockets)
		if err != nil {
			return nil, err
		}
		s.floors = append(s.floors, f)
		floorCrews = append(floorCrews, crew)
		all[manyFloor].pids = append(all[manyFloor].pids, f.PID())
	}
	all[manyCanopy].crew, all[manyFloor].crew = drain.Join(edgeCrews...), drain.Join(floorCrews...)
	return all, nil
}

// crew opens sockets by one process, which has enough descriptors for those of one edge.
func (s *scale) crew(url string, sockets int) (*drain.Crew, error) {
	crew, err := drain.Start(drain.Config{URL: url, Sockets: sockets, First: 1}, 1, openPatience)
	if err != nil {
		return nil, err
	}
	s.crews = append(s.crews, crew)
	progress("%d sockets open at %s", sockets, url)
	return crew, nil
}

// startFloor starts a floor and opens its sockets.
func (s *scale) startFloor(sockets int) (*floor.Process, *drain.Crew, error) {
	f, err := floor.Start(s.opts.size)
	if err != nil {
		return nil, nil, err
	}
	crew, err := s.crew(f.URL(), sockets)
	if err == nil {
		err = f.Opened(sockets, openPatience)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Stop())
	}
	return f, crew, nil
}

// sendFloors sends to one floor after the other, as one bare loop over all sockets would.
func (s *scale) sendFloors(_ context.Context, events int) error {
	for _, f := range s.floors {
		if _, err := f.Send(events, 1); err != nil {
			return err
		}
	}
	return nil
}

func (s *scale) close() error {
	errs := []error{s.closeClients()}
	for _, f := range s.floors {
		errs = append(errs, f.Stop())
	}
	var edges errgroup.Group
	for _, edge := range s.edges {
		edges.Go(edge.Stop)
	}
	return errors.Join(append(errs, edges.Wait(), s.stage.close())...)
}

func rowTenResults(o options, all []*contestant, samples [][]sample) report.Row {
	cpu := sample.cpuPerDelivery
	canopy, bare := ratios(samples[manyCanopy], samples[fewCanopy], cpu), ratios(samples[manyFloor], samples[fewFloor], cpu)
	relative := make([]float64, len(canopy))
	for i := range canopy {
		relative[i] = canopy[i] / bare[i]
	}
	row := report.Row{
		Title: fmt.Sprintf("10. CPU per delivery at %s sockets against %s", report.Count(uint64(o.scale.many)), report.Count(uint64(o.scale.few))),
		What: fmt.Sprintf("Events of %d bytes, each sent when all sockets have had the one before: %s to %d sockets of one application that %d edges share, and %d to %d sockets of another one on one edge, "+
			"which makes as many deliveries. The floor does the same with as many processes, one after the other, with one thread each. Its own CPU per delivery grows with the sockets, too, since less of the kernel's memory is in the processor's cache; "+
			"the goal is about what Canopy's grows by beyond that. All sockets are open all the time.",
			o.size, plural(o.scale.events, "event"), o.scale.many, o.scale.edges, o.scale.fewEvents(), o.scale.few),
		Results: []report.Result{
			{Name: "ratio: Canopy's growth to the floor's", Values: relative, Digits: 2, Goal: &report.Goal{Value: goalScale}},
			{Name: "growth, Canopy", Values: canopy, Digits: 2},
			{Name: "growth, floor", Values: bare, Digits: 2},
		},
	}
	for i, c := range all {
		row.Results = append(row.Results, report.Result{Name: c.name, Values: each(samples[i], cpu), Unit: "ns"})
	}
	row.Pictures = []report.Picture{{Title: row.Title, Axis: "CPU of the servers' processes per delivery, ns", Bars: row.Pick(namesOf(all)...)}}
	row.Head, row.Raw = rawTable(all, samples)
	return row
}
