//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"canopy/bench/drain"
	"canopy/bench/load"
	"canopy/bench/report"
	"canopy/bench/under"
	"canopy/bench/usage"
)

// curvesRow measures what costs are by what there is much of. It is measured alone.
const curvesRow = "curves"

const (
	curveSockets    = 10_000 // where the curve is about something else
	curveEdgeMost   = 18_000 // sockets of one edge
	curveDeliveries = 50_000 // of each round, about
	curveSteps      = 100    // of each round at most
)

// curve is one figure that goes up while the others stand.
type curve struct {
	title, what string
	points      []point
}

// point is one place of a curve.
type point struct {
	name                               string
	sockets, applications, size, edges int
}

// curvesOf are all curves, with at most so many sockets.
func curvesOf(size, most int) []curve {
	most = max(most, 1)
	few := min(curveSockets, most)
	edgesOf := func(sockets int) int { return (sockets + curveEdgeMost - 1) / curveEdgeMost }
	least := load.MinSize + len(point{}.application(0)) - len(load.Application)
	all := []curve{
		{title: "1. Sockets", what: fmt.Sprintf("All sockets read one application. One process has descriptors for less than 20,000 here, so each edge has at most %d.", curveEdgeMost)},
		{title: "2. Applications", what: fmt.Sprintf("%d sockets of one edge share the applications evenly, and each application gets its event at the same time: there are as many deliveries, of ever more events.", few)},
		{title: "3. Size of an event", what: fmt.Sprintf("%d sockets of one application on one edge. An event without a payload has %d bytes.", few, least)},
		{title: "4. Edges", what: "The same sockets of one application are shared by more edges, on the same cores."},
	}
	for _, n := range []int{1_000, 3_000, 10_000, 30_000, 100_000} {
		if n = min(n, most); len(all[0].points) == 0 || n > all[0].points[len(all[0].points)-1].sockets {
			all[0].points = append(all[0].points, point{name: countOf(n, "socket"), sockets: n, applications: 1, size: size, edges: edgesOf(n)})
		}
	}
	for _, n := range []int{1, 10, 100, 1_000, 10_000} {
		if n <= few {
			all[1].points = append(all[1].points, point{name: countOf(n, "application"), sockets: few, applications: n, size: size, edges: 1})
		}
	}
	for _, n := range []int{least, 512, 2 << 10, 8 << 10, 64 << 10} {
		all[2].points = append(all[2].points, point{name: countOf(n, "byte"), sockets: few, applications: 1, size: n, edges: 1})
	}
	for _, n := range []int{1, 2, 4, 8} {
		all[3].points = append(all[3].points, point{name: countOf(n, "edge"), sockets: max(few, n), applications: 1, size: size, edges: n})
	}
	return all
}

// curveReading is what one point has shown, some of it round by round.
type curveReading struct {
	events, deliveries   uint64 // of a round
	opening              float64
	resident             float64 // bytes per socket
	cpu, natsCPU, system []float64
	rates, p50, last     []float64
}

// rowCurves measures all curves, point by point.
func rowCurves(ctx context.Context, o options) (rows []report.Row, err error) {
	for _, c := range curvesOf(o.size, o.curveMost) {
		var readings []curveReading
		for _, p := range c.points {
			r, err := p.measure(ctx, o)
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", c.title, p.name, err)
			}
			progress("%s: %s: %.0f ns of CPU per delivery, %.0f deliveries/s, %.0f bytes per socket", c.title, p.name,
				report.Median(r.cpu), report.Median(r.rates), r.resident)
			readings = append(readings, r)
		}
		rows = append(rows, c.row(readings))
	}
	return rows, nil
}

// bend is a stage for one point.
type bend struct {
	*stage
	point   point
	edges   []*under.Edge
	crew    *drain.Crew
	streams []*load.Stream
}

func (p point) measure(ctx context.Context, o options) (r curveReading, err error) {
	o.size = p.size
	b := &bend{stage: &stage{opts: o}, point: p}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.start(ctx); err != nil {
		return r, err
	}
	before, err := b.resident(ctx)
	if err != nil {
		return r, err
	}
	begun := time.Now()
	if err := b.openAll(); err != nil {
		return r, err
	}
	r.opening = float64(p.sockets) / time.Since(begun).Seconds()
	there, err := b.resident(ctx)
	if err != nil {
		return r, err
	}
	r.resident = float64(there-before) / float64(p.sockets)
	steps := min(max(2, curveDeliveries/p.sockets), curveSteps)
	if p.size > 8<<10 {
		steps = 2 // these are gigabytes already
	}
	for round := -1; round < o.rounds; round++ { // what is made once is made in the round before
		got := r
		if err := b.round(ctx, steps, &got); err != nil {
			return r, err
		}
		if round >= 0 {
			r = got
		}
	}
	return r, nil
}

// application is the name of an application's; there are as many as the point says.
func (point) application(i int) string { return load.Application + "-" + strconv.Itoa(i) }

func (b *bend) start(ctx context.Context) error {
	var names []string
	for i := range b.point.applications {
		names = append(names, b.point.application(i))
	}
	b.access = under.Public(names...)
	if err := b.stage.open(ctx); err != nil {
		return err
	}
	b.edges, b.stage.edge = append(b.edges, b.stage.edge), nil
	for i := 1; i < b.point.edges; i++ {
		dir := filepath.Join(b.dir, "edge-"+strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
		edge, err := b.startEdge(ctx, dir)
		if err != nil {
			return err
		}
		b.edges = append(b.edges, edge)
	}
	for _, name := range names {
		s, err := b.stream.Of(name)
		if err != nil {
			return err
		}
		b.streams = append(b.streams, s)
	}
	return nil
}

// openAll opens the sockets, by two client processes in all or one for each edge.
func (b *bend) openAll() error {
	processes := max(1, b.opts.clients/len(b.edges))
	var crews []*drain.Crew
	for i, e := range b.edges {
		n := b.point.sockets*(i+1)/len(b.edges) - b.point.sockets*i/len(b.edges)
		crew, err := drain.Start(drain.Config{
			URL: e.URLOf(load.Application + "-{n}"), Modulo: b.point.applications, Sockets: n, First: 1,
		}, min(processes, n), openPatience)
		if err != nil {
			return err
		}
		crews = append(crews, crew)
		b.crews = append(b.crews, crew)
	}
	b.crew = drain.Join(crews...)
	return nil
}

func (b *bend) resident(ctx context.Context) (int64, error) {
	var sum atomic.Int64
	group, live := errgroup.WithContext(ctx)
	for _, e := range b.edges {
		group.Go(func() error {
			m, err := e.Memory(live)
			sum.Add(m.Resident)
			return err
		})
	}
	err := group.Wait()
	return sum.Load(), err
}

// spent is processor time of the edges, in all and in the kernel, and of NATS.
type spent struct{ edges, user, system, nats time.Duration }

func (b *bend) spent() (s spent, err error) {
	for _, e := range b.edges {
		all, err := usage.CPU(e.PID())
		if err != nil {
			return s, err
		}
		user, system, err := usage.Shares(e.PID())
		if err != nil {
			return s, err
		}
		s.edges, s.user, s.system = s.edges+all, s.user+user, s.system+system
	}
	s.nats, err = usage.CPU(b.nats.PID())
	return s, err
}

// round sends an event to each application steps times, each when all sockets have had
// the one before, and adds what that shows to r.
func (b *bend) round(ctx context.Context, steps int, r *curveReading) error {
	if err := b.crew.Reset(); err != nil {
		return err
	}
	before, err := b.spent()
	if err != nil {
		return err
	}
	start := time.Now()
	for step := range steps {
		if err := load.PublishEach(ctx, b.streams); err != nil {
			return err
		}
		if err := b.crew.Wait(step+1, burstPatience); err != nil {
			return err
		}
	}
	after, err := b.spent()
	if err != nil {
		return err
	}
	seen, err := b.crew.Snapshot()
	if err != nil {
		return err
	}
	if err := verify(seen, b.point.sockets, b.opts.size, steps); err != nil {
		return err
	}
	took := seen.Last.Sub(start)
	r.events, r.deliveries = uint64(steps*len(b.streams)), seen.Events
	n := float64(seen.Events)
	r.cpu = append(r.cpu, float64(after.edges-before.edges)/n)
	r.natsCPU = append(r.natsCPU, float64(after.nats-before.nats)/float64(r.events)/1e3)
	r.system = append(r.system, 100*float64(after.system-before.system)/max(1, float64(after.user+after.system-before.user-before.system)))
	r.rates = append(r.rates, n/took.Seconds())
	r.p50 = append(r.p50, 1e3*seen.Latency.Quantile(0.5).Seconds())
	r.last = append(r.last, 1e3*took.Seconds()/float64(steps))
	return nil
}

func (b *bend) close() error {
	errs := []error{b.closeClients()}
	for _, e := range b.edges {
		errs = append(errs, e.Stop())
	}
	return errors.Join(append(errs, b.stage.close())...)
}
