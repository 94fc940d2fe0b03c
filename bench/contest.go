//go:build linux

package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"canopy/bench/drain"
	"canopy/bench/report"
	"canopy/bench/usage"
	"canopy/shared/event"
)

const (
	eventPatience = 30 * time.Second
	burstPatience = 5 * time.Minute
	idleFor       = 2 * time.Second
	warmUp        = 10 // events before the first round, or as many as a round has
)

// contestant is one server of a comparison, or several that share sockets.
type contestant struct {
	name    string
	pids    []int
	crew    *drain.Crew
	sockets int
	burst   int                                         // events per round of row 2
	send    func(ctx context.Context, events int) error // returns when they are on the way
	idle    float64                                     // share of a core that it uses without events
}

// cpu is the processor time of all processes of the contestant.
func (c *contestant) cpu() (sum time.Duration, err error) {
	for _, pid := range c.pids {
		used, err := usage.CPU(pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// sample is what one round of one contestant has shown.
type sample struct {
	events     int
	deliveries uint64
	bytes      uint64
	reads      uint64
	cpu        time.Duration // of the server's process, less what it uses when idle
	took       time.Duration // from the first publish to the last delivery
	p50, p99   time.Duration // from publish to delivery
}

func (s sample) cpuPerDelivery() float64 { return float64(s.cpu.Nanoseconds()) / float64(s.deliveries) }
func (s sample) rate() float64           { return float64(s.deliveries) / s.took.Seconds() }

// contestants are the edge and the floor, whose sockets are all open. The floor stands
// twice, with one thread and with one per core, over the same sockets.
func (s *stage) contestants(edgeCrew, floorCrew *drain.Crew) []*contestant {
	all := []*contestant{{
		name: "Canopy", pids: []int{s.edge.PID()}, crew: edgeCrew, sockets: s.opts.sockets, burst: s.opts.burst,
		send: func(ctx context.Context, events int) error { return s.stream.Publish(ctx, events, 0) },
	}}
	threads := []int{1}
	if cores := runtime.NumCPU(); cores > 1 {
		threads = append(threads, cores)
	}
	for _, n := range threads {
		all = append(all, &contestant{
			name: fmt.Sprintf("floor, %s", plural(n, "thread")), pids: []int{s.floor.PID()}, crew: floorCrew, sockets: s.opts.sockets, burst: s.opts.floorBurst,
			send: func(_ context.Context, events int) error {
				_, err := s.floor.Send(events, n)
				return err
			},
		})
	}
	return all
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// warm lets each contestant deliver a few events and then measures what it uses when
// nothing happens.
func warm(ctx context.Context, all []*contestant) error {
	for _, c := range all {
		if err := c.deliver(ctx, min(warmUp, c.burst), 1); err != nil {
			return err
		}
	}
	before := make([]time.Duration, len(all))
	for i, c := range all {
		var err error
		if before[i], err = c.cpu(); err != nil {
			return err
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(idleFor):
	}
	for i, c := range all {
		after, err := c.cpu()
		if err != nil {
			return err
		}
		c.idle = (after - before[i]).Seconds() / idleFor.Seconds()
		progress("%s uses %.2f %% of a core when idle", c.name, 100*c.idle)
	}
	return nil
}

// deliver sends events, group of them at once, and waits after each group until all
// sockets have got it.
func (c *contestant) deliver(ctx context.Context, events, group int) error {
	if err := c.crew.Reset(); err != nil {
		return err
	}
	for done := 0; done < events; done += group {
		if err := c.send(ctx, group); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		patience := eventPatience
		if group > 1 {
			patience = burstPatience
		}
		if err := c.crew.Wait(done+group, patience); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// measure is deliver with everything counted.
func (c *contestant) measure(ctx context.Context, o options, events, group int) (sample, error) {
	start := time.Now()
	before, err := c.cpu()
	if err != nil {
		return sample{}, err
	}
	if err := c.deliver(ctx, events, group); err != nil {
		return sample{}, err
	}
	after, err := c.cpu()
	if err != nil {
		return sample{}, err
	}
	end := time.Now()
	seen, err := c.crew.Snapshot()
	if err != nil {
		return sample{}, err
	}
	if err := verify(seen, c.sockets, o.size, events); err != nil {
		return sample{}, fmt.Errorf("%s: %w", c.name, err)
	}
	return sample{
		events: events, deliveries: seen.Events, bytes: seen.Bytes, reads: seen.Reads,
		cpu:  after - before - time.Duration(c.idle*float64(end.Sub(start))),
		took: seen.Last.Sub(start),
		p50:  seen.Latency.Quantile(0.5), p99: seen.Latency.Quantile(0.99),
	}, nil
}

// verify is an error unless each of sockets got events events, of size bytes, once and in
// order, and nothing else.
func verify(seen drain.Snapshot, sockets, size, events int) error {
	if err := seen.Fault(); err != nil {
		return err
	}
	if want := uint64(sockets * events); seen.Events != want {
		return fmt.Errorf("%d deliveries instead of %d", seen.Events, want)
	}
	if seen.Others > 0 || seen.Open != sockets {
		return fmt.Errorf("%d unexpected messages, %d sockets open of %d", seen.Others, seen.Open, sockets)
	}
	if least := seen.Events * uint64(size+event.CursorSuffixLen); seen.Bytes < least {
		return fmt.Errorf("%d bytes came, fewer than %d", seen.Bytes, least)
	}
	return nil
}

// rounds measures all contestants by turns, the first of a round being another one each
// time, so that what drifts hits all alike. The result is by contestant, then by round.
func rounds(ctx context.Context, o options, row string, all []*contestant, group func(*contestant) (events, at int)) ([][]sample, error) {
	samples := make([][]sample, len(all))
	for i := range samples {
		samples[i] = make([]sample, o.rounds)
	}
	for round := range o.rounds {
		for turn := range all {
			i := (round + turn) % len(all)
			events, at := group(all[i])
			got, err := all[i].measure(ctx, o, events, at)
			if err != nil {
				return nil, fmt.Errorf("row %s, round %d: %w", row, round+1, err)
			}
			samples[i][round] = got
			progress("row %s, round %d of %d: %s: %s deliveries/s, %.0f ns of CPU per delivery", row, round+1, o.rounds,
				all[i].name, report.Count(uint64(got.rate())), got.cpuPerDelivery())
		}
	}
	return samples, nil
}
