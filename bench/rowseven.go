//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"canopy/bench/drain"
	"canopy/bench/peer"
	"canopy/bench/report"
	"canopy/bench/usage"
	"canopy/shared/subject"
)

const (
	goalGroup = 0.8 // events a second through a group by those through the bare consumer

	pollAcknowledged = 5 * time.Millisecond
	groupPatience    = 2 * time.Minute
)

// groupOptions are the flags of row 7.
type groupOptions struct {
	members int
	events  int
}

func (o groupOptions) check(clients int) error {
	var errs []error
	if o.members < clients {
		errs = append(errs, errors.New("-group-members: expected one per client process at least"))
	}
	if o.events < o.members {
		errs = append(errs, errors.New("-group-events: expected one per member at least"))
	}
	return errors.Join(errs...)
}

// drainer is one of the two that empty a backlog: the members of a group, or the peer's.
type drainer struct {
	name     string
	consumer string // in JetStream
	pid      int
	clients  func() []int // processes of the members, if they are others
	open     func() error
	seen     func() (drain.Snapshot, error)
	close    func() error
}

// drained is what one round of one drainer has shown.
type drained struct {
	seen    drain.Snapshot
	took    time.Duration // from the first event read to the last one acknowledged in JetStream
	whole   time.Duration // the same from before the members came
	cpu     time.Duration // of the drainer's process
	natsCPU time.Duration
	clients time.Duration // CPU of the members' processes, their opening included
}

func (d drained) rate() float64 { return float64(d.seen.Events) / d.took.Seconds() }

// duel is a stage with a group and a peer that have the same to do.
type duel struct {
	*stage
	js    jetstream.JetStream
	peer  *peer.Process
	names string // of the stream
}

// rowSeven is the events a second through one group, against a bare consumer.
func rowSeven(ctx context.Context, o options) (row report.Row, err error) {
	d := &duel{stage: &stage{opts: o}, names: subject.Stream(0)}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.stage.open(ctx, "EDGE__LIMITS__NEW_GROUPS_PER_ADDRESS=0"); err != nil {
		return row, err
	}
	if d.js, err = jetstream.New(d.conn); err != nil {
		return row, fmt.Errorf("use JetStream: %w", err)
	}
	both, cfg, err := d.contestants(ctx)
	if err != nil {
		return row, err
	}
	rounds, err := d.rounds(ctx, both)
	if err != nil {
		return row, err
	}
	metrics, err := d.edge.Metrics(ctx)
	if err != nil {
		return row, err
	}
	if n := metrics["canopy_edge_group_redelivered_total"] + metrics["canopy_edge_group_repeated_total"]; n > 0 {
		return row, fmt.Errorf("the edge saw %g events again", n)
	}
	return rowSevenResults(o, both, rounds, cfg), nil
}

// contestants makes both consumers: the group's as the edge makes it, and one that is
// the same but for its names.
func (d *duel) contestants(ctx context.Context) (both [2]drainer, cfg jetstream.ConsumerConfig, err error) {
	var crew *drain.Crew
	group := drainer{
		name: "Canopy", pid: d.edge.PID(),
		open: func() (err error) {
			crew, err = drain.Start(drain.Config{
				URL: d.edge.URL() + "?group_id=bench", Sockets: d.opts.group.members, Shared: true,
			}, d.opts.clients, openPatience)
			return err
		},
		clients: func() []int { return crew.PIDs() },
		seen:    func() (drain.Snapshot, error) { return crew.Snapshot() },
		close:   func() error { return crew.Stop() },
	}
	if err := errors.Join(group.open(), group.close()); err != nil {
		return both, cfg, err
	}
	stream, err := d.js.Stream(ctx, d.names)
	if err != nil {
		return both, cfg, fmt.Errorf("find stream: %w", err)
	}
	list := stream.ListConsumers(ctx)
	for info := range list.Info() {
		cfg = info.Config
	}
	if err := list.Err(); err != nil || cfg.Durable == "" {
		return both, cfg, fmt.Errorf("find the group's consumer: %w", err)
	}
	group.consumer = cfg.Durable
	same := cfg
	same.Durable, same.DeliverGroup, same.DeliverSubject, same.Name = "peer", "peer", "peer.events", ""
	if _, err := d.js.CreatePushConsumer(ctx, d.names, same); err != nil {
		return both, cfg, fmt.Errorf("make the peer's consumer: %w", err)
	}
	if d.peer, err = peer.Start(); err != nil {
		return both, cfg, err
	}
	bare := drainer{
		name: "bare consumer", consumer: same.Durable, pid: d.peer.PID(),
		open: func() error {
			return d.peer.Open(peer.Config{NATS: d.nats.URL(), Deliver: same.DeliverSubject, Queue: same.DeliverGroup, Members: d.opts.group.members})
		},
		clients: func() []int { return nil },
		seen:    d.peer.Report, close: d.peer.Close,
	}
	return [2]drainer{group, bare}, cfg, nil
}

// rounds lets both drain the same events, the first of a round being another one each
// time. What is made once is made in a round before, which does not count.
func (d *duel) rounds(ctx context.Context, both [2]drainer) (rounds [2][]drained, err error) {
	for round := -1; round < d.opts.rounds; round++ {
		first := d.stream.Next()
		for i := range both {
			if err := d.abandoned(ctx, both[i].consumer); err != nil {
				return rounds, err
			}
		}
		if err := d.stream.Publish(ctx, d.opts.group.events, 0); err != nil {
			return rounds, err
		}
		for turn := range both {
			i := (round + 1 + turn) % len(both)
			got, err := d.drain(ctx, both[i], first, d.stream.Next()-1)
			if err != nil {
				return rounds, fmt.Errorf("round %d, %s: %w", round+1, both[i].name, err)
			}
			if round < 0 {
				continue
			}
			rounds[i] = append(rounds[i], got)
			progress("row 7, round %d of %d: %s: %s events/s", round+1, d.opts.rounds, both[i].name, report.Count(uint64(got.rate())))
		}
	}
	return rounds, nil
}

// drain lets who take the events from first to last, and checks that each came to one
// member.
func (d *duel) drain(ctx context.Context, who drainer, first, last uint64) (got drained, err error) {
	cpu, err := usage.CPU(who.pid)
	if err != nil {
		return got, err
	}
	natsCPU, err := usage.CPU(d.nats.PID())
	if err != nil {
		return got, err
	}
	start := time.Now()
	if err := who.open(); err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, who.close()) }()
	acknowledged, err := d.acknowledged(ctx, who.consumer)
	seen, seenErr := who.seen()
	if err = errors.Join(err, seenErr); err != nil {
		return got, fmt.Errorf("%d events came: %w", seen.Events, err)
	}
	if err := exactlyOnce(seen, first, last); err != nil {
		return got, err
	}
	got = drained{seen: seen, took: acknowledged.Sub(seen.First), whole: acknowledged.Sub(start)}
	for _, p := range []struct {
		pid    int
		before time.Duration
		used   *time.Duration
	}{{who.pid, cpu, &got.cpu}, {d.nats.PID(), natsCPU, &got.natsCPU}} {
		after, err := usage.CPU(p.pid)
		if err != nil {
			return got, err
		}
		*p.used = after - p.before
	}
	for _, pid := range who.clients() {
		used, err := usage.CPU(pid)
		if err != nil {
			return got, err
		}
		got.clients += used
	}
	return got, nil
}

// exactlyOnce is an error unless the events from first to last have come once, and
// nothing else.
func exactlyOnce(seen drain.Snapshot, first, last uint64) error {
	if err := seen.Fault(); err != nil {
		return err
	}
	events := last - first + 1
	if came := seen.Numbers.Len(first, last); came != events || seen.Events != events {
		return fmt.Errorf("%d of %d events came, in %d messages", came, events, seen.Events)
	}
	if seen.Others > 0 || seen.Open != seen.Sockets || seen.LostPongs > 0 {
		return fmt.Errorf("%d unexpected messages, %d members open of %d, %d Pongs lost", seen.Others, seen.Open, seen.Sockets, seen.LostPongs)
	}
	return nil
}

// acknowledged waits until nothing is left for consumer, and gives the time.
func (d *duel) acknowledged(ctx context.Context, consumer string) (time.Time, error) {
	return d.await(ctx, consumer, func(info *jetstream.ConsumerInfo) bool {
		return info.NumPending == 0 && info.NumAckPending == 0
	})
}

// abandoned waits until nobody subscribes to consumer.
func (d *duel) abandoned(ctx context.Context, consumer string) error {
	_, err := d.await(ctx, consumer, func(info *jetstream.ConsumerInfo) bool { return !info.PushBound })
	return err
}

func (d *duel) await(ctx context.Context, consumer string, until func(*jetstream.ConsumerInfo) bool) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, groupPatience)
	defer cancel()
	c, err := d.js.PushConsumer(ctx, d.names, consumer)
	for err == nil {
		var info *jetstream.ConsumerInfo
		if info, err = c.Info(ctx); err != nil {
			break
		}
		if until(info) {
			return time.Now(), nil
		}
		if err = pause(ctx, pollAcknowledged); err != nil {
			err = fmt.Errorf("%w: %d wait, %d are not acknowledged", err, info.NumPending, info.NumAckPending)
		}
	}
	return time.Time{}, fmt.Errorf("watch consumer %s: %w", consumer, err)
}

func (d *duel) close() error {
	var err error
	if d.peer != nil {
		err = d.peer.Stop()
	}
	return errors.Join(err, d.stage.close())
}

func rowSevenResults(o options, both [2]drainer, rounds [2][]drained, cfg jetstream.ConsumerConfig) report.Row {
	row := report.Row{
		Title: "7. Events per second through a group",
		What: fmt.Sprintf("%d events of %d bytes are published while nobody is there, then %d members come and take them; then the other contestant takes the same events "+
			"by a consumer of its own. *Canopy*: the members are sockets of one group on one edge, which answer Pings. *Bare consumer*: %d queue subscriptions of nats.go in one process, "+
			"which acknowledge each message and do nothing else; their consumer has the same configuration (explicit acknowledgements, at most %d outstanding). "+
			"The time is from the first event read by a member until JetStream knows everything acknowledged.",
			o.group.events, o.size, o.group.members, o.group.members, cfg.MaxAckPending),
		Shows: []string{"Every event came to exactly one member, in both, and none was delivered a second time."},
	}
	values := func(i int, figure func(drained) float64) (list []float64) {
		for _, r := range rounds[i] {
			list = append(list, figure(r))
		}
		return list
	}
	ratio := values(0, drained.rate)
	for i, by := range values(1, drained.rate) {
		ratio[i] /= by
	}
	row.Results = append(row.Results, report.Result{
		Name: "ratio: Canopy to bare consumer", Values: ratio, Digits: 2, Goal: &report.Goal{AtLeast: true, Value: goalGroup},
	})
	each := func(d time.Duration, events uint64) float64 { return float64(d.Microseconds()) / float64(events) }
	for i, c := range both {
		row.Results = append(row.Results,
			report.Result{Name: c.name, Values: values(i, drained.rate), Unit: "events/s"},
			report.Result{Name: c.name + ", CPU of its process per event", Values: values(i, func(r drained) float64 { return each(r.cpu, r.seen.Events) }), Unit: "µs", Digits: 2},
			report.Result{Name: c.name + ", CPU of the clients' processes per event", Values: values(i, func(r drained) float64 { return each(r.clients, r.seen.Events) }), Unit: "µs", Digits: 2},
			report.Result{Name: c.name + ", CPU of NATS per event", Values: values(i, func(r drained) float64 { return each(r.natsCPU, r.seen.Events) }), Unit: "µs", Digits: 2})
	}
	row.Pictures = []report.Picture{{Title: row.Title, Axis: "events/s", Bars: row.Pick(both[0].name, both[1].name)}}
	row.Head = []string{"round", "contestant", "events", "seconds", "seconds with opening", "events/s", "bytes received", "reads", "Pings answered", "CPU seconds", "CPU seconds of clients", "CPU seconds of NATS"}
	for round := range rounds[0] {
		for i, c := range both {
			r := rounds[i][round]
			row.Raw = append(row.Raw, []string{
				strconv.Itoa(round + 1), c.name, report.Count(r.seen.Events), fmt.Sprintf("%.3f", r.took.Seconds()), fmt.Sprintf("%.3f", r.whole.Seconds()),
				report.Count(uint64(r.rate())), report.Count(r.seen.Bytes), report.Count(r.seen.Reads), report.Count(r.seen.Pings),
				fmt.Sprintf("%.3f", r.cpu.Seconds()), fmt.Sprintf("%.3f", r.clients.Seconds()), fmt.Sprintf("%.3f", r.natsCPU.Seconds()),
			})
		}
	}
	return row
}
