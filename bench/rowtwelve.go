//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"canopy/bench/drain"
	"canopy/bench/load"
	"canopy/bench/report"
	"canopy/bench/under"
	"canopy/bench/usage"
)

const (
	goalNeighbour = 10 // milliseconds that the quiet application's p99 may grow by

	busyApplication = load.Application + "-busy"
)

// neighbourOptions are the flags of row 12.
type neighbourOptions struct {
	quiet int     // sockets
	busy  int     // sockets
	rate  float64 // events a second of the quiet application
	burst int     // events of the busy one that are sent at once
	phase time.Duration
}

func (o neighbourOptions) check(clients int) error {
	var errs []error
	if o.quiet < 1 || o.busy < clients || o.burst < 1 {
		errs = append(errs, errors.New("-quiet-sockets, -busy-sockets, -busy-burst: expected at least 1, and one busy socket per client process"))
	}
	if o.events() < 10 {
		errs = append(errs, errors.New("-quiet-rate, -quiet-phase: expected at least 10 events per phase"))
	}
	return errors.Join(errs...)
}

func (o neighbourOptions) events() int { return int(o.rate * o.phase.Seconds()) }

// neighbours is a stage with two applications on one edge.
type neighbours struct {
	*stage
	conn  *nats.Conn // of the busy application's publisher
	other *load.Stream
	quiet *drain.Crew
	busy  *drain.Crew
}

// quietly is what one phase has shown.
type quietly struct {
	seen drain.Snapshot // the quiet application's
	busy float64        // deliveries a second of the busy one
	edge float64        // cores that the edge used
}

// rowTwelve is the delay of a quiet application's events while another one keeps the edge
// as busy as can be.
func rowTwelve(ctx context.Context, o options) (row report.Row, err error) {
	n := &neighbours{stage: &stage{opts: o, access: under.Public(load.Application, busyApplication)}}
	defer func() { err = errors.Join(err, n.close()) }()
	if err := n.open(ctx); err != nil {
		return row, err
	}
	phases := map[bool][]quietly{}
	for round := -1; round < o.rounds; round++ { // what is made once is made in the round before
		for turn := range 2 {
			beside := (round+1+turn)%2 == 1
			got, err := n.measure(ctx, beside)
			if err != nil {
				return row, fmt.Errorf("round %d: %w", round+1, err)
			}
			if round < 0 {
				continue
			}
			phases[beside] = append(phases[beside], got)
			progress("row 12, round %d of %d: the quiet application's p99 %s ms while the other one gets %s deliveries/s", round+1, o.rounds,
				milliseconds(got.seen.Latency.Quantile(0.99)), report.Count(uint64(got.busy)))
		}
	}
	return rowTwelveResults(o, phases), nil
}

func (n *neighbours) open(ctx context.Context) (err error) {
	if err := n.stage.open(ctx); err != nil {
		return err
	}
	// On a connection of its own, so that events do not wait for each other in the client.
	if n.conn, err = nats.Connect(n.nats.URL(), nats.Name("canopy-bench busy")); err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	if n.other, err = load.OpenStream(ctx, n.conn, busyApplication, n.opts.size); err != nil {
		return err
	}
	if n.quiet, err = drain.Start(drain.Config{URL: n.edge.URL(), Sockets: n.opts.neighbour.quiet, First: 1}, 1, openPatience); err != nil {
		return err
	}
	n.crews = append(n.crews, n.quiet)
	n.busy, err = n.openSockets(n.edge.URLOf(busyApplication), n.opts.neighbour.busy)
	return err
}

// measure is one phase.
func (n *neighbours) measure(ctx context.Context, beside bool) (got quietly, err error) {
	if err := n.quiet.Reset(); err != nil {
		return got, err
	}
	start := time.Now()
	before, err := usage.CPU(n.edge.PID())
	if err != nil {
		return got, err
	}
	stop := make(chan struct{})
	var other errgroup.Group
	if beside {
		other.Go(func() (err error) {
			got.busy, err = n.saturate(ctx, stop)
			return err
		})
	}
	err = n.stream.Publish(ctx, n.opts.neighbour.events(), n.opts.neighbour.rate)
	if err == nil {
		err = n.quiet.Wait(n.opts.neighbour.events(), eventPatience)
	}
	after, cpuErr := usage.CPU(n.edge.PID())
	took := time.Since(start)
	close(stop)
	if err := errors.Join(err, cpuErr, other.Wait()); err != nil {
		return got, err
	}
	got.edge = (after - before).Seconds() / took.Seconds()
	if got.seen, err = n.quiet.Snapshot(); err != nil {
		return got, err
	}
	return got, verify(got.seen, n.opts.neighbour.quiet, n.opts.size, n.opts.neighbour.events())
}

// saturate keeps the busy application at what the edge can deliver, until stop is closed:
// one burst is always on its way behind the one that sockets are getting. It gives the
// deliveries a second, and checks every one of them.
func (n *neighbours) saturate(ctx context.Context, stop <-chan struct{}) (rate float64, err error) {
	if err := n.busy.Reset(); err != nil {
		return 0, err
	}
	burst, sent := n.opts.neighbour.burst, 0
	start := time.Now()
	for going := true; going; {
		if err := n.other.Publish(ctx, burst, 0); err != nil {
			return 0, err
		}
		if err := n.busy.Reach(sent, burstPatience); err != nil {
			return 0, fmt.Errorf("busy application: %w", err)
		}
		sent += burst
		select {
		case <-stop:
			going = false
		default:
		}
	}
	if err := n.busy.Wait(sent, burstPatience); err != nil {
		return 0, fmt.Errorf("busy application: %w", err)
	}
	seen, err := n.busy.Snapshot()
	if err != nil {
		return 0, err
	}
	if err := verify(seen, n.opts.neighbour.busy, n.opts.size, sent); err != nil {
		return 0, fmt.Errorf("busy application: %w", err)
	}
	return float64(seen.Events) / seen.Last.Sub(start).Seconds(), nil
}

func (n *neighbours) close() error {
	err := n.closeClients()
	if n.conn != nil {
		n.conn.Close()
	}
	return errors.Join(err, n.stage.close())
}

func rowTwelveResults(o options, phases map[bool][]quietly) report.Row {
	row := report.Row{
		Title: "12. A quiet application beside one at saturation",
		What: fmt.Sprintf("One edge has two applications, whose events share one stream. The quiet one has %d sockets and gets %g events of %d bytes a second, for %s in each round, "+
			"once alone and once while the other one is kept at what the edge can deliver to its %d sockets: bursts of %d events, one always on its way behind another. "+
			"The delay is from publish to the client's read; the clients, NATS and the publishers share the cores with the edge, so in it is also how long each of them waits for a core.",
			o.neighbour.quiet, o.neighbour.rate, o.size, o.neighbour.phase, o.neighbour.busy, o.neighbour.burst),
	}
	delays := func(beside bool, q float64) (values []float64) {
		for i := range phases[beside] {
			values = append(values, float64(phases[beside][i].seen.Latency.Quantile(q))/float64(time.Millisecond))
		}
		return values
	}
	for _, quantile := range []struct {
		name string
		q    float64
		goal *report.Goal
	}{{"p99", 0.99, &report.Goal{Value: goalNeighbour}}, {"p50", 0.5, nil}} {
		alone, beside := delays(false, quantile.q), delays(true, quantile.q)
		var more []float64
		for i := range alone {
			more = append(more, beside[i]-alone[i])
		}
		row.Results = append(row.Results,
			report.Result{Name: quantile.name + " beside the busy application, less that alone", Values: more, Unit: "ms", Digits: 1, Goal: quantile.goal},
			report.Result{Name: quantile.name + ", alone", Values: alone, Unit: "ms", Digits: 1},
			report.Result{Name: quantile.name + ", beside", Values: beside, Unit: "ms", Digits: 1})
	}
	var busy, cores []float64
	for _, p := range phases[true] {
		busy, cores = append(busy, p.busy), append(cores, p.edge)
	}
	row.Results = append(row.Results,
		report.Result{Name: "busy application", Values: busy, Unit: "deliveries/s"},
		report.Result{Name: "cores that the edge used beside", Values: cores, Digits: 2})
	row.Pictures = []report.Picture{{
		Title: row.Title, Axis: "delay of the quiet application's events, ms", Bars: row.Pick("p50, alone", "p50, beside", "p99, alone", "p99, beside"),
	}}
	row.Head = []string{"round", "company", "events", "deliveries", "bytes on the wire", "p50 ms", "p99 ms", "longest ms", "busy deliveries/s", "cores used by the edge"}
	for round := range o.rounds {
		for _, beside := range []bool{false, true} {
			p, company := phases[beside][round], "alone"
			if beside {
				company = "beside"
			}
			row.Raw = append(row.Raw, []string{
				strconv.Itoa(round + 1), company, strconv.Itoa(o.neighbour.events()), report.Count(p.seen.Events), report.Count(p.seen.Bytes),
				milliseconds(p.seen.Latency.Quantile(0.5)), milliseconds(p.seen.Latency.Quantile(0.99)), milliseconds(p.seen.Latency.Max()),
				report.Count(uint64(p.busy)), fmt.Sprintf("%.2f", p.edge),
			})
		}
	}
	return row
}
