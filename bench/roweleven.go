//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"canopy/bench/report"
	"canopy/bench/usage"
)

// fleetRow is measured by itself: it needs the machine's memory for itself.
const fleetRow = "11"

const (
	fleetMargin      = 512 // descriptors of a process that are for other things than sockets
	fleetConcurrency = 16  // handshakes under way at once, of each client process
	fleetPatience    = 10 * time.Minute
	fleetLook        = 50 * time.Millisecond
)

// fleetOptions are the flags of row 11.
type fleetOptions struct {
	sockets     int
	perEdge     int // sockets of one edge at most
	procs       int // GOMAXPROCS of each edge; 0 leaves it to Go
	ping        time.Duration
	pingTimeout time.Duration
	hold        time.Duration // after opening
	events      int           // to all, one at a time
	churn       time.Duration
	churnEvents int // during the churn at most, evenly
}

func (o *fleetOptions) define(flags *flag.FlagSet) {
	flags.IntVar(&o.sockets, "fleet", 1_000_000, "`sockets` of row 11 in all")
	flags.IntVar(&o.perEdge, "fleet-per-edge", 19_000, "`sockets` of each edge of row 11 at most, and of each client process")
	flags.IntVar(&o.procs, "fleet-procs", 1, "`threads` of each edge of row 11 that run at once (GOMAXPROCS); 0 is one for each core")
	flags.DurationVar(&o.ping, "fleet-ping", time.Minute, "silence `time` after which a socket of row 11 gets a Ping")
	flags.DurationVar(&o.pingTimeout, "fleet-ping-timeout", 45*time.Second, "`time` in which it must answer")
	flags.DurationVar(&o.hold, "fleet-hold", 2*time.Minute, "`time` for which row 11 leaves the open sockets alone")
	flags.IntVar(&o.events, "fleet-events", 3, "`events` of row 11 to all sockets, one at a time")
	flags.DurationVar(&o.churn, "fleet-churn", 2*time.Minute, "`time` for which row 11 replaces a thousandth of the sockets each second")
	flags.IntVar(&o.churnEvents, "fleet-churn-events", 4, "`events` meanwhile at most, each when all sockets have had the one before; one more comes afterwards")
}

func (o fleetOptions) check() error {
	var errs []error
	if o.sockets < 1 || o.perEdge < 1 || o.events < 1 || o.churnEvents < 1 || o.procs < 0 {
		errs = append(errs, errors.New("-fleet, -fleet-per-edge, -fleet-events, -fleet-churn-events: expected at least 1; -fleet-procs: at least 0"))
	}
	for _, d := range []time.Duration{o.ping, o.pingTimeout} {
		if d < time.Second || d%time.Second != 0 {
			errs = append(errs, errors.New("-fleet-ping, -fleet-ping-timeout: expected whole seconds"))
		}
	}
	if o.hold < o.ping+o.pingTimeout {
		errs = append(errs, errors.New("-fleet-hold: expected -fleet-ping and -fleet-ping-timeout together at least, or nobody sees whether each socket answers"))
	}
	if o.churn < time.Second {
		errs = append(errs, errors.New("-fleet-churn: expected a second at least"))
	}
	return errors.Join(errs...)
}

// edges is how many share the sockets.
func (o fleetOptions) edges() int { return (o.sockets + o.perEdge - 1) / o.perEdge }

// of is how many sockets edge i has.
func (o fleetOptions) of(i int) int {
	return o.sockets*(i+1)/o.edges() - o.sockets*i/o.edges()
}

// rowEleven holds very many sockets. If it fails after it began to open them, there are
// rows all the same, which say what it held and what ended it.
func rowEleven(ctx context.Context, o options) (rows []report.Row, err error) {
	lacks, err := o.fleet.lacks()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(lacks...); err != nil {
		return nil, fmt.Errorf("this machine lacks something for %s sockets:\n%w", report.Count(uint64(o.fleet.sockets)), err)
	}
	return newFleet(o).measure(ctx)
}

func newFleet(o options) *fleet { return &fleet{stage: &stage{opts: o}, kernel: usage.ReadKernel} }

func (f *fleet) measure(ctx context.Context) (rows []report.Row, err error) {
	running, cancel := context.WithCancelCause(ctx)
	f.cancel = cancel
	stopGuard := f.guard(running)
	err = f.run(running)
	if cause := context.Cause(running); cause != nil {
		err = cause // what failed then failed because of it
	}
	stopGuard()
	err = errors.Join(err, f.close(err))
	cancel(nil)
	if ctx.Err() != nil || len(f.sights) == 0 {
		return nil, err
	}
	return f.rows(err), err
}

func (f *fleet) run(ctx context.Context) error {
	for _, phase := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"starting the edges", f.start}, {"opening", f.open}, {"holding", f.hold},
		{"events to all", f.send}, {"churn", f.churn}, {"looking at NATS", f.compareNATS},
	} {
		f.enter(phase.name)
		if err := phase.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", phase.name, err)
		}
	}
	return nil
}

// hold leaves the sockets alone, but for Pings, and then looks whether each has got one and
// has answered.
func (f *fleet) hold(ctx context.Context) error {
	o := f.opts.fleet
	progress("row 11: holding %s sockets for %s; a Ping to each every %s", report.Count(uint64(o.sockets)), o.hold, o.ping)
	if err := f.crew.Reset(); err != nil {
		return err
	}
	before, err := f.cpu()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := pause(ctx, o.hold); err != nil {
		return err
	}
	after, err := f.cpu()
	if err != nil {
		return err
	}
	took := time.Since(start)
	f.held.took, f.held.cores = took, after.sub(before).over(took)
	if f.held.seen, err = f.crew.Snapshot(); err != nil {
		return err
	}
	if f.held.silent, err = f.sum(ctx, metricSilent); err != nil {
		return err
	}
	if err := f.look(ctx, "held"); err != nil {
		return err
	}
	progress("row 11: %s Pings in %s, to %s sockets; %g were silent", report.Count(f.held.seen.Pings), took.Round(time.Second), report.Count(uint64(f.held.seen.Pinged)), f.held.silent)
	switch seen := f.held.seen; {
	case seen.Fault() != nil:
		return seen.Fault()
	case seen.Open != o.sockets || f.held.silent > 0:
		return fmt.Errorf("%d of %d sockets are open, %g were dropped because they answered no Ping: by code %v %v", seen.Open, o.sockets, f.held.silent, seen.Closes, seen.Reasons)
	case seen.Pinged != o.sockets || seen.LostPongs > 0:
		return fmt.Errorf("%d of %d sockets got a Ping in %s, and %d answers did not go out", seen.Pinged, o.sockets, took.Round(time.Second), seen.LostPongs)
	}
	return nil
}

// send sends one event at a time to all sockets.
func (f *fleet) send(ctx context.Context) error {
	o := f.opts.fleet
	for i := range o.events {
		if err := f.crew.Reset(); err != nil {
			return err
		}
		before, err := f.cpu()
		if err != nil {
			return err
		}
		f.peak.reset()
		start := time.Now()
		if err := f.publish(ctx); err != nil {
			return err
		}
		if err := f.crew.Wait(1, fleetPatience); err != nil {
			return err
		}
		after, err := f.cpu()
		if err != nil {
			return err
		}
		// Whatever came twice has come by now, or comes before the next event is counted.
		seen, err := f.crew.Snapshot()
		if err != nil {
			return err
		}
		if err := verify(seen, o.sockets, f.opts.size, 1); err != nil {
			return err
		}
		f.sent = append(f.sent, delivery{seen: seen, start: start, cpu: after.sub(before), peak: f.peak.most()})
		progress("row 11: event %d of %d was at all %s sockets after %.2f s", i+1, o.events, report.Count(seen.Events), seen.Last.Sub(start).Seconds())
	}
	return f.look(ctx, "events sent")
}

// publish sends the next event and keeps the time before.
func (f *fleet) publish(ctx context.Context) error {
	f.made = append(f.made, time.Now())
	return f.stream.Publish(ctx, 1, 0)
}

// compareNATS is an error if NATS lost a connection to an edge meanwhile.
func (f *fleet) compareNATS(context.Context) error {
	counts, err := f.nats.Counts()
	if err != nil {
		return err
	}
	return undisturbed(f.counts, counts)
}

// cpu is the processor time of all edges, of all clients and of NATS.
func (f *fleet) cpu() (u fleetUsed, err error) {
	for _, e := range f.edges {
		if err := addCPU(&u.edges, e.PID()); err != nil {
			return u, err
		}
	}
	for _, pid := range f.clients {
		if err := addCPU(&u.clients, pid); err != nil {
			return u, err
		}
	}
	return u, addCPU(&u.nats, f.nats.PID())
}

func addCPU(to *time.Duration, pid int) error {
	used, err := usage.CPU(pid)
	*to += used
	return err
}
