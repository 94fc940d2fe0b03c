//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"canopy/bench/drain"
	"canopy/bench/under"
	"canopy/bench/usage"
)

const (
	// smallBuffer is what the kernel of a client that stalls may receive, in bytes, so
	// that the edge's side soon fills up.
	smallBuffer = 4 << 10

	// feedShare of a phase is how long the edge keeps events, so that within the phase
	// it gives up those that do not read.
	feedShare = 0.75

	sampleEvery   = 250 * time.Millisecond
	closePatience = 20 * time.Second // sockets are cut 5 s after their close frame
)

// Metrics of the edge.
const (
	metricSlow        = "canopy_edge_slow_consumers_total"
	metricSocketBytes = "canopy_edge_socket_bytes"
	metricFeedBytes   = "canopy_edge_feed_bytes"
	metricRepairs     = "canopy_edge_feed_repairs_total"
	metricOpen        = `drogue_connections{protocol="ws",type="integration"}`
)

// stallOptions are the flags of row 6. The burst must be more than what the kernel takes
// for a socket that is not read (two times 64 KiB to send, and smallBuffer to receive)
// and one write of the edge (64 KiB).
type stallOptions struct {
	sockets int
	stalled int
	burst   int
	rate    float64
	phase   time.Duration
}

func (o stallOptions) check(clients int) error {
	var errs []error
	if o.stalled < 1 || o.sockets-o.stalled < clients {
		errs = append(errs, errors.New("-stalled: expected at least 1, and fewer than -stall-sockets by one per client process"))
	}
	if o.burst < 1 {
		errs = append(errs, errors.New("-stall-burst: expected at least 1"))
	}
	if o.phase < 2*time.Second {
		errs = append(errs, errors.New("-phase: expected at least 2s"))
	}
	if o.events() < 10 {
		errs = append(errs, errors.New("-rate: expected at least 10 events per phase"))
	}
	return errors.Join(errs...)
}

func (o stallOptions) healthy() int           { return o.sockets - o.stalled }
func (o stallOptions) events() int            { return int(o.rate * o.phase.Seconds()) }
func (o stallOptions) feedAge() time.Duration { return time.Duration(feedShare * float64(o.phase)) }

// company is who shares the edge with the healthy sockets in a phase.
type company int

const (
	alone   company = iota // nobody
	reading                // as many sockets as else are stalled, and all of them are read
	stalled                // sockets that are open and not read
	companies
)

func (c company) String() string { return [...]string{"alone", "all read", "stalled"}[c] }

// phase is what one phase has shown.
type phase struct {
	seen    drain.Snapshot // the healthy sockets' events, without the burst's
	most    held           // at any moment of the phase, the burst to all sockets included
	stalled float64        // bytes that waited for stalled sockets when the burst was over
	slow    float64        // sockets that the edge gave up as slow consumers
	closes  map[int]uint64 // stalled sockets by close code
}

// held is what an edge keeps, in bytes.
type held struct{ resident, sockets, feeds float64 }

// ward is an edge with healthy sockets whose delays are measured in changing company.
type ward struct {
	*stage
	healthy *drain.Crew
	late    *drain.Crew // the company, nil if there is none
}

// measure is one phase: the company comes, a burst fills the buffers of those who do not
// read, events come at a steady rate, the company goes.
func (w *ward) measure(ctx context.Context, with company) (p phase, err error) {
	if with != alone {
		w.late, err = drain.Start(drain.Config{
			URL: w.edge.URL(), Sockets: w.opts.stall.stalled, First: w.stream.Next(), ReceiveBuffer: smallBuffer,
		}, 1, openPatience)
		if err != nil {
			return p, err
		}
		defer func() { err = errors.Join(err, w.dismiss(ctx)) }()
	}
	if with == stalled {
		if err := w.late.Stall(1); err != nil {
			return p, err
		}
	}
	sampling, stop := context.WithCancel(ctx)
	defer stop()
	var sampler errgroup.Group
	sampler.Go(func() error { return w.sample(sampling, &p.most) })
	err = w.deliver(ctx, with, &p)
	stop()
	return p, errors.Join(err, sampler.Wait())
}

// deliver is the measured part of a phase.
func (w *ward) deliver(ctx context.Context, with company, p *phase) (err error) {
	readers := map[*drain.Crew]int{w.healthy: w.opts.stall.healthy()}
	if with == reading {
		readers[w.late] = w.opts.stall.stalled
	}
	if _, err := w.publish(ctx, readers, w.opts.stall.burst, 0); err != nil {
		return fmt.Errorf("burst: %w", err)
	}
	before, err := w.edge.Metrics(ctx)
	if err != nil {
		return err
	}
	p.stalled = before[metricSocketBytes]
	if with == stalled && p.stalled == 0 {
		return errors.New("nothing waits for stalled sockets after the burst: none has stalled")
	}
	if p.seen, err = w.publish(ctx, readers, w.opts.stall.events(), w.opts.stall.rate); err != nil {
		return err
	}
	if with != stalled {
		return nil
	}
	given := before[metricSlow] + float64(w.opts.stall.stalled)
	after, err := w.await(ctx, metricSlow, given)
	if err != nil {
		return fmt.Errorf("stalled sockets were not all given up during the phase: %w", err)
	}
	p.slow = after[metricSlow] - before[metricSlow]
	p.closes, err = w.farewell(ctx)
	return err
}

// publish sends events, rate a second or all at once if rate is 0, waits until all
// readers have had them, and gives what the healthy ones have seen. Whatever is not exact
// at any reader is an error.
func (w *ward) publish(ctx context.Context, readers map[*drain.Crew]int, events int, rate float64) (healthy drain.Snapshot, err error) {
	for crew := range readers {
		if err := crew.Reset(); err != nil {
			return healthy, err
		}
	}
	if err := w.stream.Publish(ctx, events, rate); err != nil {
		return healthy, err
	}
	for crew, sockets := range readers {
		if err := crew.Wait(events, burstPatience); err != nil {
			return healthy, err
		}
		seen, err := crew.Snapshot()
		if err != nil {
			return healthy, err
		}
		if err := verify(seen, sockets, w.opts.size, events); err != nil {
			return healthy, err
		}
		if crew == w.healthy {
			healthy = seen
		}
	}
	return healthy, nil
}

// farewell reads the stalled sockets to their end and gives how they were closed. What
// they got before must be in order and without holes too.
func (w *ward) farewell(ctx context.Context) (map[int]uint64, error) {
	if err := w.late.Resume(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(closePatience); ; {
		seen, err := w.late.Snapshot()
		if err != nil {
			return nil, err
		}
		if err := seen.Fault(); err != nil {
			return nil, fmt.Errorf("stalled sockets, before their end: %w", err)
		}
		if seen.Open == 0 {
			return seen.Closes, nil
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("%d of %d stalled sockets are open after %s", seen.Open, seen.Sockets, closePatience)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// dismiss ends the company and returns when the edge has noticed.
func (w *ward) dismiss(ctx context.Context) error {
	err := w.late.Stop()
	w.late = nil
	if err != nil {
		return err
	}
	_, err = w.await(ctx, metricOpen, float64(w.opts.stall.healthy()))
	return err
}

// await returns the edge's metrics as soon as name is value.
func (w *ward) await(ctx context.Context, name string, value float64) (map[string]float64, error) {
	for end := time.Now().Add(closePatience); ; {
		all, err := w.edge.Metrics(ctx)
		if err != nil || all[name] == value {
			return all, err
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("%s is %v after %s, expected %v", name, all[name], closePatience, value)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// sample notes the most that the edge holds, until ctx ends.
func (w *ward) sample(ctx context.Context, most *held) error {
	for {
		resident, err := usage.Resident(w.edge.PID())
		if err != nil {
			return err
		}
		all, err := w.edge.Metrics(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		most.resident = max(most.resident, float64(resident))
		most.sockets = max(most.sockets, all[metricSocketBytes])
		most.feeds = max(most.feeds, all[metricFeedBytes])
		if pause(ctx, sampleEvery) != nil {
			return nil
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// undisturbed is an error if a connection to NATS has gone or come between two counts.
func undisturbed(before, after under.NATSCounts) error {
	var errs []error
	if before.Connections != after.Connections || before.Total != after.Total {
		errs = append(errs, fmt.Errorf("NATS has %d connections of %d ever, before it were %d of %d",
			after.Connections, after.Total, before.Connections, before.Total))
	}
	if n := after.SlowConsumers - before.SlowConsumers; n != 0 {
		errs = append(errs, fmt.Errorf("NATS has cut off %d slow consumers", n))
	}
	if n := after.Stale - before.Stale; n != 0 {
		errs = append(errs, fmt.Errorf("NATS has cut off %d connections that answered no ping", n))
	}
	return errors.Join(errs...)
}
