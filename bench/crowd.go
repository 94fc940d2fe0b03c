//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"canopy/bench/drain"
	"canopy/bench/report"
	"canopy/bench/under"
	"canopy/bench/usage"
)

// Rows of very many members. They have no goal: an operator sets limits by them.
const (
	crowdMembers = "members" // all sockets in one group
	crowdGroups  = "groups"  // each socket in a group of its own
)

const (
	// crowdSlack is how many subscriptions an edge or the bench may have made for itself
	// meanwhile, for the answers to its requests.
	crowdSlack = 8

	crowdIdle     = 5 * time.Second
	metricMembers = "canopy_edge_group_members"
)

type crowdOptions struct {
	size   int
	events int
}

func (o crowdOptions) check(clients int) error {
	if o.size < clients || o.events < 1 {
		return errors.New("-crowd, -crowd-events: expected one socket per client process and one event at least")
	}
	return nil
}

// crowd is a stage with very many members of groups.
type crowd struct {
	*stage
	name   string
	events int
}

// rowCrowd is what very many members cost, or very many groups.
func rowCrowd(ctx context.Context, o options, name string) (row report.Row, err error) {
	c := &crowd{stage: &stage{opts: o}, name: name, events: o.crowd.events}
	url := "?group_id=bench"
	if name == crowdGroups {
		url, c.events = "?group_id=bench-{n}", max(1, o.crowd.events/2_000)
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.open(ctx, "EDGE__LIMITS__NEW_GROUPS_PER_ADDRESS=0", "EDGE__LIMITS__GROUPS_PER_APPLICATION=0"); err != nil {
		return row, err
	}
	before, err := c.look(ctx)
	if err != nil {
		return row, err
	}
	start := time.Now()
	crew, err := drain.Start(drain.Config{
		URL: c.edge.URL() + url, Sockets: o.crowd.size, Shared: name == crowdMembers,
	}, o.clients, openPatience)
	if err != nil {
		return row, err
	}
	joined := time.Since(start)
	progress("row %s: %d sockets have joined after %s", name, o.crowd.size, joined.Round(time.Millisecond))
	gone := false
	defer func() {
		if !gone {
			err = errors.Join(err, crew.Stop())
		}
	}()
	busy, err := c.cpu()
	if err != nil {
		return row, err
	}
	there, err := c.look(ctx)
	if err != nil {
		return row, err
	}
	idle, err := c.idle(ctx)
	if err != nil {
		return row, err
	}
	seen, took, err := c.deliver(ctx, crew)
	if err != nil {
		return row, err
	}
	start, gone = time.Now(), true
	if err := crew.Stop(); err != nil {
		return row, err
	}
	if err := c.left(ctx, there.nats.Subscriptions); err != nil {
		return row, err
	}
	return c.row(before, there, busy.sub(before.used), idle, joined, seen, took, time.Since(start)), nil
}

// used is processor time.
type used struct{ edge, nats time.Duration }

func (u used) sub(o used) used { return used{u.edge - o.edge, u.nats - o.nats} }

// sight is what edge and NATS hold at a moment.
type sight struct {
	memory   under.Memory
	resident int64 // of NATS
	nats     under.NATSCounts
	used     used
}

func (c *crowd) cpu() (u used, err error) {
	var err2 error
	u.edge, err = usage.CPU(c.edge.PID())
	u.nats, err2 = usage.CPU(c.nats.PID())
	return u, errors.Join(err, err2)
}

func (c *crowd) look(ctx context.Context) (s sight, err error) {
	if s.memory, err = c.edge.Memory(ctx); err != nil {
		return s, err
	}
	if s.resident, err = usage.Resident(c.nats.PID()); err != nil {
		return s, err
	}
	if s.nats, err = c.nats.Counts(); err != nil {
		return s, err
	}
	s.used, err = c.cpu()
	return s, err
}

// idle is the processor time while nothing happens.
func (c *crowd) idle(ctx context.Context) (used, error) {
	before, err := c.cpu()
	if err != nil {
		return used{}, err
	}
	if err := pause(ctx, crowdIdle); err != nil {
		return used{}, err
	}
	after, err := c.cpu()
	return after.sub(before), err
}

// deliver publishes, and returns when every event has come to one member of each group.
func (c *crowd) deliver(ctx context.Context, crew *drain.Crew) (seen drain.Snapshot, took time.Duration, err error) {
	want := uint64(c.events)
	if c.name == crowdGroups {
		want *= uint64(c.opts.crowd.size)
	}
	first, start := c.stream.Next(), time.Now()
	if err := c.stream.Publish(ctx, c.events, 0); err != nil {
		return seen, 0, err
	}
	for end := time.Now().Add(burstPatience); seen.Events < want && seen.Fault() == nil; {
		if seen, err = crew.Snapshot(); err != nil {
			return seen, 0, err
		}
		if time.Now().After(end) {
			break
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return seen, 0, err
		}
	}
	if c.name == crowdMembers {
		err = exactlyOnce(seen, first, c.stream.Next()-1)
	} else {
		err = verify(seen, c.opts.crowd.size, c.opts.size, c.events)
	}
	return seen, seen.Last.Sub(start), err
}

// left waits until the edge has no members any more, and NATS no subscriptions of theirs.
// subscriptions is how many it had with them.
func (c *crowd) left(ctx context.Context, subscriptions uint32) error {
	for end := time.Now().Add(groupPatience); ; {
		metrics, err := c.edge.Metrics(ctx)
		if err != nil {
			return err
		}
		counts, err := c.nats.Counts()
		if err != nil {
			return err
		}
		more := int(counts.Subscriptions) + c.opts.crowd.size - int(subscriptions)
		if metrics[metricMembers] == 0 && more <= crowdSlack {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%g members and %d of their subscriptions are there after %s", metrics[metricMembers], more, groupPatience)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

func (c *crowd) row(before, there sight, busy, idle used, joined time.Duration, seen drain.Snapshot, took, left time.Duration) report.Row {
	n := float64(c.opts.crowd.size)
	per := func(a, b int64) []float64 { return []float64{float64(b-a) / n / 1024} }
	what, title := "one group", "One group with very many members"
	if c.name == crowdGroups {
		what, title = "groups of their own", "Very many groups with one member each"
	}
	one := func(name, unit string, digits int, value float64) report.Result {
		return report.Result{Name: name, Unit: unit, Digits: digits, Values: []float64{value}}
	}
	share := func(d time.Duration) float64 { return 100 * d.Seconds() / crowdIdle.Seconds() }
	return report.Row{
		Title: title,
		What: fmt.Sprintf("%d sockets join %s on one edge, with one NATS server; then %d events of %d bytes come at once. Memory is read when garbage is collected, "+
			"and divided by the sockets: it has the sockets themselves in it. Leaving ends when the edge has no members and NATS has no subscriptions of theirs.",
			c.opts.crowd.size, what, c.events, c.opts.size),
		Results: []report.Result{
			one("to join, all", "s", 2, joined.Seconds()),
			one("to join, CPU of the edge, each", "µs", 0, float64(busy.edge.Microseconds())/n),
			one("to join, CPU of NATS, each", "µs", 0, float64(busy.nats.Microseconds())/n),
			one("to leave, all", "s", 2, left.Seconds()),
			{Name: "edge, resident memory each", Unit: "KiB", Digits: 2, Values: per(before.memory.Resident, there.memory.Resident)},
			{Name: "edge, heap in use each", Unit: "KiB", Digits: 2, Values: per(before.memory.HeapInUse, there.memory.HeapInUse)},
			{Name: "edge, stacks each", Unit: "KiB", Digits: 2, Values: per(before.memory.Stacks, there.memory.Stacks)},
			{Name: "NATS, resident memory each", Unit: "KiB", Digits: 2, Values: per(before.resident, there.resident)},
			one("NATS, subscriptions each", "", 2, float64(int64(there.nats.Subscriptions)-int64(before.nats.Subscriptions))/n),
			one("idle, edge's share of a core", "%", 2, share(idle.edge)),
			one("idle, share of a core of NATS", "%", 2, share(idle.nats)),
			one("deliveries", "deliveries/s", 0, float64(seen.Events)/took.Seconds()),
		},
	}
}
