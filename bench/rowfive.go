//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"canopy/bench/drain"
	"canopy/bench/gateway"
	"canopy/bench/load"
	"canopy/bench/report"
	"canopy/bench/usage"
)

const (
	goalLatency = 0.5 // Canopy's p99 by each peer's

	saturations = 3 // bursts to each contestant, of which the median counts
	ofSlowest   = 0.5
)

// latencyOptions are the flags of row 5.
type latencyOptions struct {
	burst int
	queue int // of each socket of a peer
	phase time.Duration
}

func (o latencyOptions) check() error {
	var errs []error
	if o.burst < 1 || o.burst > o.queue {
		errs = append(errs, errors.New("-saturation-burst: expected 1 to -peer-queue"))
	}
	if o.phase < time.Second {
		errs = append(errs, errors.New("-latency-phase: expected at least 1s"))
	}
	return errors.Join(errs...)
}

// runner is one contestant of row 5. Each has an application of its own, so that nobody
// else works while it is measured.
type runner struct {
	name        string
	application string
	topic       *load.Topic
	crew        *drain.Crew
	pid         int
	saturation  []float64 // deliveries a second in bursts
	cpu         []float64 // of the server's process in bursts, nanoseconds per delivery
	phases      []drain.Snapshot
}

// race is a pipeline with an edge and its peers, and sockets at each.
type race struct {
	*pipeline
	peers   []*gateway.Process
	runners []*runner
	rate    float64 // events a second
	events  int     // in each phase
}

// rowFive is the delay from Kafka to the socket, at the same rate for all.
func rowFive(ctx context.Context, o options) (row report.Row, err error) {
	r := &race{pipeline: &pipeline{stage: &stage{opts: o}}}
	r.runners = []*runner{
		{name: "Canopy", application: load.Application},
		{name: gateway.GWS, application: load.Application + "-gws"},
		{name: gateway.Coder, application: load.Application + "-coder"},
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.start(ctx); err != nil {
		return row, err
	}
	if err := r.saturate(ctx); err != nil {
		return row, err
	}
	for round := range o.rounds {
		for turn := range r.runners {
			who := r.runners[(round+turn)%len(r.runners)]
			seen, err := who.run(ctx, o, r.events, r.rate)
			if err != nil {
				return row, fmt.Errorf("round %d: %w", round+1, err)
			}
			who.phases = append(who.phases, seen)
			progress("row 5, round %d of %d: %s: p50 %s ms, p99 %s ms", round+1, o.rounds, who.name,
				milliseconds(seen.Latency.Quantile(0.5)), milliseconds(seen.Latency.Quantile(0.99)))
		}
	}
	return r.row(), nil
}

// start starts everything and opens all sockets.
func (r *race) start(ctx context.Context) error {
	var applications []string
	for _, who := range r.runners {
		applications = append(applications, who.application)
	}
	if err := r.pipeline.open(ctx, applications); err != nil {
		return err
	}
	if err := r.openIngest(ctx, applications...); err != nil {
		return err
	}
	for i, who := range r.runners {
		who.topic = r.topics[i]
		url, sockets := r.edge.URLOf(who.application), r.opts.sockets
		who.pid = r.edge.PID()
		opened := func() error { return nil }
		if who.name != "Canopy" {
			peer, err := gateway.Start(gateway.Config{Library: who.name, NATS: r.nats.URL(), Application: who.application, Queue: r.opts.latency.queue})
			if err != nil {
				return err
			}
			r.peers = append(r.peers, peer)
			who.pid, url = peer.PID(), peer.URL()
			opened = func() error { return peer.Await(sockets, openPatience) }
		}
		var err error
		if who.crew, err = r.openSockets(url, sockets); err != nil {
			return err
		}
		if err := opened(); err != nil {
			return err
		}
	}
	return nil
}

// saturate finds out how much each contestant delivers, and sets the rate by it.
func (r *race) saturate(ctx context.Context) error {
	for _, who := range r.runners {
		if _, err := who.run(ctx, r.opts, 1, 0); err != nil { // what is made once is made now
			return err
		}
	}
	for range saturations {
		for _, who := range r.runners {
			if err := who.saturate(ctx, r.opts); err != nil {
				return fmt.Errorf("saturation: %w", err)
			}
		}
	}
	slowest := 0.0
	for _, who := range r.runners[1:] {
		if rate := report.Median(who.saturation); slowest == 0 || rate < slowest {
			slowest = rate
		}
	}
	r.rate = ofSlowest * slowest / float64(r.opts.sockets)
	r.events = max(1, int(r.rate*r.opts.latency.phase.Seconds()))
	return nil
}

// saturate is one burst.
func (who *runner) saturate(ctx context.Context, o options) error {
	before, err := usage.CPU(who.pid)
	if err != nil {
		return err
	}
	start := time.Now()
	seen, err := who.run(ctx, o, o.latency.burst, 0)
	if err != nil {
		return err
	}
	after, err := usage.CPU(who.pid)
	if err != nil {
		return err
	}
	rate := float64(seen.Events) / seen.Last.Sub(start).Seconds()
	who.saturation = append(who.saturation, rate)
	who.cpu = append(who.cpu, float64((after-before).Nanoseconds())/float64(seen.Events))
	progress("row 5: a burst of %d events: %s: %s deliveries/s, %.0f ns of CPU per delivery", o.latency.burst, who.name,
		report.Count(uint64(rate)), report.Median(who.cpu))
	return nil
}

// run sends events to Kafka, rate a second or all at once if rate is 0, and gives what the
// sockets have seen. Whatever is not exact is an error.
func (who *runner) run(ctx context.Context, o options, events int, rate float64) (seen drain.Snapshot, err error) {
	if err := who.crew.Reset(); err != nil {
		return seen, err
	}
	if err := who.topic.Publish(ctx, events, rate); err != nil {
		return seen, err
	}
	if err := who.crew.Wait(events, burstPatience); err != nil {
		return seen, fmt.Errorf("%s: %w", who.name, err)
	}
	if seen, err = who.crew.Snapshot(); err != nil {
		return seen, err
	}
	if err := verify(seen, o.sockets, o.size, events); err != nil {
		return seen, fmt.Errorf("%s: %w", who.name, err)
	}
	return seen, nil
}

func (r *race) close() error {
	err := r.stage.closeClients()
	for _, peer := range r.peers {
		err = errors.Join(err, peer.Stop())
	}
	return errors.Join(err, r.pipeline.close())
}

func (r *race) row() report.Row {
	row := report.Row{
		Title: "5. Delay from Kafka to the socket",
		What: fmt.Sprintf("Events of %d bytes go into Kafka (an embedded broker), through ingest into NATS, and from there to %d sockets of each contestant. "+
			"*Canopy* is an edge; *gws* and *coder/websocket* are servers made with these libraries in the plain way (nats.go, goroutines per connection, a queue of %d events each), "+
			"on the same NATS. Each has events of its own, so only one works at a time. First bursts of %d events show how much each delivers at most; "+
			"then all get the same rate, half of what the slower peer delivers: %.2f events a second, %d in each round, evenly. "+
			"The delay is from just before an event is handed to Kafka's client until a socket's client has read it; in it is the whole time that a server needs for one event to all sockets.",
			r.opts.size, r.opts.sockets, r.opts.latency.queue, r.opts.latency.burst, r.rate, r.events),
	}
	for _, peer := range r.runners[1:] {
		row.Results = append(row.Results,
			report.Result{Name: "ratio: p99, Canopy to " + peer.name, Values: r.ratios(peer, 0.99), Digits: 2, Goal: &report.Goal{Value: goalLatency}},
			report.Result{Name: "ratio: p50, Canopy to " + peer.name, Values: r.ratios(peer, 0.5), Digits: 2})
	}
	var bars []string
	for _, who := range r.runners {
		bars = append(bars, who.name+", p50", who.name+", p99")
		for _, quantile := range []struct {
			name string
			q    float64
		}{{"p50", 0.5}, {"p99", 0.99}, {"longest", 1}} {
			row.Results = append(row.Results, report.Result{Name: who.name + ", " + quantile.name, Values: who.delays(quantile.q), Unit: "ms", Digits: 1})
		}
	}
	for _, who := range r.runners {
		row.Results = append(row.Results, report.Result{
			Name: who.name + ", in a burst of " + strconv.Itoa(r.opts.latency.burst) + " events", Values: who.saturation, Unit: "deliveries/s",
		}, report.Result{Name: who.name + ", in a burst, CPU of its process per delivery", Values: who.cpu, Unit: "ns"})
	}
	row.Pictures = []report.Picture{{Title: row.Title + ", at the same rate", Axis: "ms", Log: true, Bars: row.Pick(bars...)}}
	row.Head = []string{"round", "contestant", "events", "deliveries", "bytes on the wire", "client's reads", "p50 ms", "p99 ms", "longest ms"}
	for round := range r.opts.rounds {
		for _, who := range r.runners {
			seen := who.phases[round]
			row.Raw = append(row.Raw, []string{
				strconv.Itoa(round + 1), who.name, strconv.Itoa(r.events), report.Count(seen.Events), report.Count(seen.Bytes), report.Count(seen.Reads),
				milliseconds(seen.Latency.Quantile(0.5)), milliseconds(seen.Latency.Quantile(0.99)), milliseconds(seen.Latency.Max()),
			})
		}
	}
	return row
}

func (who *runner) delays(q float64) (values []float64) {
	for i := range who.phases {
		values = append(values, float64(who.phases[i].Latency.Quantile(q))/float64(time.Millisecond))
	}
	return values
}

// ratios are Canopy's delays by the peer's, round by round.
func (r *race) ratios(peer *runner, q float64) []float64 {
	values := r.runners[0].delays(q)
	for i, by := range peer.delays(q) {
		values[i] /= by
	}
	return values
}
