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

// drainer is one of those that empty a backlog: the members of a group, or a peer's.
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
	all, cfg, err := d.contestants(ctx)
	if err != nil {
		return row, err
	}
	rounds, err := d.rounds(ctx, all)
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
	return rowSevenResults(o, all, rounds, cfg), nil
}

// contestants makes all consumers: the group's as the edge makes it, and others that are
// the same but for their names.
func (d *duel) contestants(ctx context.Context) (all []drainer, cfg jetstream.ConsumerConfig, err error) {
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
		return nil, cfg, err
	}
	stream, err := d.js.Stream(ctx, d.names)
	if err != nil {
		return nil, cfg, fmt.Errorf("find stream: %w", err)
	}
	list := stream.ListConsumers(ctx)
	for info := range list.Info() {
		cfg = info.Config
	}
	if err := list.Err(); err != nil || cfg.Durable == "" {
		return nil, cfg, fmt.Errorf("find the group's consumer: %w", err)
	}
	group.consumer = cfg.Durable
	if d.peer, err = peer.Start(); err != nil {
		return nil, cfg, err
	}
	all = append(all, group)
	for _, p := range []struct {
		name, consumer, url string
		apart               bool
	}{{"bare consumer", "bare", d.nats.URL(), false}, {"NATS by WebSocket", "websocket", d.nats.WebSocketURL(), true}} {
		same := cfg
		same.Durable, same.DeliverGroup, same.DeliverSubject, same.Name = p.consumer, p.consumer, "peer."+p.consumer, ""
		if _, err := d.js.CreatePushConsumer(ctx, d.names, same); err != nil {
			return nil, cfg, fmt.Errorf("make the peer's consumer: %w", err)
		}
		all = append(all, drainer{
			name: p.name, consumer: p.consumer, pid: d.peer.PID(),
			open: func() error {
				return d.peer.Open(peer.Config{
					NATS: p.url, Deliver: same.DeliverSubject, Queue: same.DeliverGroup, Members: d.opts.group.members, Apart: p.apart,
				})
			},
			clients: func() []int { return nil },
			seen:    d.peer.Report, close: d.peer.Close,
		})
	}
	return all, cfg, nil
}

// rounds lets all drain the same events, the first of a round being another one each
// time. What is made once is made in a round before, which does not count.
func (d *duel) rounds(ctx context.Context, all []drainer) (rounds [][]drained, err error) {
	rounds = make([][]drained, len(all))
	for round := -1; round < d.opts.rounds; round++ {
		first := d.stream.Next()
		for i := range all {
			if err := d.abandoned(ctx, all[i].consumer); err != nil {
				return rounds, err
			}
		}
		if err := d.stream.Publish(ctx, d.opts.group.events, 0); err != nil {
			return rounds, err
		}
		for turn := range all {
			i := (round + 1 + turn) % len(all)
			got, err := d.drain(ctx, all[i], first, d.stream.Next()-1)
			if err != nil {
				return rounds, fmt.Errorf("round %d, %s: %w", round+1, all[i].name, err)
			}
			if round < 0 {
				continue
			}
			rounds[i] = append(rounds[i], got)
			progress("row 7, round %d of %d: %s: %s events/s", round+1, d.opts.rounds, all[i].name, report.Count(uint64(got.rate())))
		}
	}
	return rounds, nil
}

func rowSevenResults(o options, all []drainer, rounds [][]drained, cfg jetstream.ConsumerConfig) report.Row {
	row := report.Row{
		Title: "7. Events per second through a group",
		What: fmt.Sprintf("%d events of %d bytes are published while nobody is there, then %d members come and take them; then the other contestants take the same events, each "+
			"by a consumer of its own. *Canopy*: the members are sockets of one group on one edge, which answer Pings. *Bare consumer*: %d queue subscriptions of nats.go in one process, "+
			"which acknowledge each message and do nothing else; their consumer has the same configuration (explicit acknowledgements, at most %d outstanding). "+
			"*NATS by WebSocket*: the same, but each with a connection of its own to NATS's own WebSocket listener, where clients speak NATS's protocol. "+
			"The time is from the first event read by a member until JetStream knows everything acknowledged.",
			o.group.events, o.size, o.group.members, o.group.members, cfg.MaxAckPending),
		Shows: []string{"Every event came to exactly one member, in all of them, and none was delivered a second time."},
	}
	values := func(i int, figure func(drained) float64) (list []float64) {
		for _, r := range rounds[i] {
			list = append(list, figure(r))
		}
		return list
	}
	for i, peer := range all[1:] {
		ratio := values(0, drained.rate)
		for round, by := range values(i+1, drained.rate) {
			ratio[round] /= by
		}
		r := report.Result{Name: "ratio: Canopy to " + peer.name, Values: ratio, Digits: 2}
		if i == 0 {
			r.Goal = &report.Goal{AtLeast: true, Value: goalGroup}
		}
		row.Results = append(row.Results, r)
	}
	each := func(d time.Duration, events uint64) float64 { return float64(d.Microseconds()) / float64(events) }
	for i, c := range all {
		row.Results = append(row.Results,
			report.Result{Name: c.name, Values: values(i, drained.rate), Unit: "events/s"},
			report.Result{Name: c.name + ", CPU of its process per event", Values: values(i, func(r drained) float64 { return each(r.cpu, r.seen.Events) }), Unit: "µs", Digits: 2},
			report.Result{Name: c.name + ", CPU of the clients' processes per event", Values: values(i, func(r drained) float64 { return each(r.clients, r.seen.Events) }), Unit: "µs", Digits: 2},
			report.Result{Name: c.name + ", CPU of NATS per event", Values: values(i, func(r drained) float64 { return each(r.natsCPU, r.seen.Events) }), Unit: "µs", Digits: 2})
	}
	row.Pictures = []report.Picture{{Title: row.Title, Axis: "events/s", Bars: row.Pick(all[0].name, all[1].name, all[2].name)}}
	row.Head = []string{"round", "contestant", "events", "seconds", "seconds with opening", "events/s", "bytes received", "reads", "Pings answered", "CPU seconds", "CPU seconds of clients", "CPU seconds of NATS"}
	for round := range rounds[0] {
		for i, c := range all {
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
