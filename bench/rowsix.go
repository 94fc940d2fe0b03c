//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"canopy/bench/report"
	"canopy/shared/config"
)

const goalStalled = 1.25 // healthy sockets' p99 beside stalled ones by that without them

// rowSix is the delay of healthy sockets with stalled readers beside them, against
// without them.
func rowSix(ctx context.Context, o options) (row report.Row, err error) {
	settings := []string{"EDGE__BUFFERS__FEED_AGE=" + o.stall.feedAge().String()}
	cfg, err := config.Read("", settings)
	if err != nil {
		return row, err
	}
	w := &ward{stage: &stage{opts: o}}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.open(ctx, settings...); err != nil {
		return row, err
	}
	if w.healthy, err = w.openSockets(w.edge.URL(), o.stall.healthy()); err != nil {
		return row, err
	}
	before, err := w.nats.Counts()
	if err != nil {
		return row, err
	}
	phases, err := w.rounds(ctx)
	if err != nil {
		return row, err
	}
	after, err := w.nats.Counts()
	if err != nil {
		return row, err
	}
	if err := undisturbed(before, after); err != nil {
		return row, err
	}
	metrics, err := w.edge.Metrics(ctx)
	if err != nil {
		return row, err
	}
	r := rowSixResults{o: o.stall, size: o.size, budgets: cfg.Edge.Buffers, phases: phases, metrics: metrics, connections: after.Connections}
	return r.row(), nil
}

// rounds measures the healthy sockets in each company by turns. The result is by company,
// then by round.
func (w *ward) rounds(ctx context.Context) ([companies][]phase, error) {
	var phases [companies][]phase
	if _, err := w.measure(ctx, reading); err != nil { // what is made once is made now
		return phases, fmt.Errorf("warming up: %w", err)
	}
	for round := range w.opts.rounds {
		for turn := range companies {
			with := turnOf(round, turn)
			p, err := w.measure(ctx, with)
			if err != nil {
				return phases, fmt.Errorf("round %d, %s: %w", round+1, with, err)
			}
			phases[with] = append(phases[with], p)
			progress("row 6, round %d of %d: %s: p50 %s ms, p99 %s ms, %s bytes waited for stalled sockets", round+1, w.opts.rounds,
				with, milliseconds(p.seen.Latency.Quantile(0.5)), milliseconds(p.seen.Latency.Quantile(0.99)), report.Count(uint64(p.stalled)))
		}
	}
	return phases, nil
}

// turnOf is the company of a turn (0 to 2) of a round. Each round begins with another one,
// and every second round goes backwards, so that none always comes behind the same one.
func turnOf(round int, turn company) company {
	if round%2 == 1 {
		turn = companies - turn
	}
	return (company(round) + turn) % companies
}

// rowSixResults is everything that row 6 is written from.
type rowSixResults struct {
	o           stallOptions
	size        int
	budgets     config.Buffers
	phases      [companies][]phase
	metrics     map[string]float64 // of the edge, at the end
	connections int                // to NATS
}

func (r rowSixResults) row() report.Row {
	row := report.Row{
		Title: "6. Healthy sockets beside stalled readers",
		What: fmt.Sprintf("%d healthy sockets, of one application on one edge, get %g events of %d bytes a second for %s, in three kinds of company: "+
			"*alone*; *all read*, with %d more sockets that another process reads like the healthy ones; *stalled*, with %d that are open "+
			"but never read. Before each phase %d events come at once, which fill all the buffers of those that are not read; "+
			"only the delays of what comes afterwards are measured, from publish to the healthy client's read, but memory from the burst on. The edge keeps events for %s here "+
			"(its default is a minute), so that the moment at which it gives up all stalled sockets lies within the phase.",
			r.o.healthy(), r.o.rate, r.size, r.o.phase, r.o.stalled, r.o.stalled, r.o.burst, r.o.feedAge()),
		Shows: r.shows(),
	}
	for _, against := range []struct {
		with company
		name string
	}{{reading, "all sockets read"}, {alone, "no other sockets"}} {
		row.Results = append(row.Results, report.Result{
			Name:   "ratio: healthy sockets' p99, with stalled ones to " + against.name,
			Values: r.ratios(stalled, against.with, 0.99), Digits: 2, Goal: &report.Goal{Value: goalStalled},
		}, report.Result{
			Name:   "ratio: healthy sockets' p50, with stalled ones to " + against.name,
			Values: r.ratios(stalled, against.with, 0.5), Digits: 2,
		})
	}
	row.Results = append(row.Results, report.Result{
		Name: "noise: p99 alone, of one round to that of the round before, nothing being different", Values: r.noise(), Digits: 2,
	})
	for with := range companies {
		for _, quantile := range []struct {
			name string
			q    float64
		}{{"p50", 0.5}, {"p99", 0.99}, {"longest", 1}} {
			row.Results = append(row.Results, report.Result{Name: quantile.name + ", " + with.String(), Values: r.delays(with, quantile.q), Unit: "ms", Digits: 1})
		}
	}
	budget := func(bytes int64) *report.Goal { return &report.Goal{Value: mebibytes(float64(bytes))} }
	row.Results = append(row.Results,
		r.memory("waiting for sockets that do not take it (`canopy_edge_socket_bytes`) at most, stalled", stalled, func(h held) float64 { return h.sockets }, budget(r.budgets.SocketBytes)),
		r.memory("events kept (`canopy_edge_feed_bytes`) at most, stalled", stalled, func(h held) float64 { return h.feeds }, budget(r.budgets.FeedBytes)),
	)
	for with := range companies {
		row.Results = append(row.Results, r.memory("edge's resident memory at most, "+with.String(), with, func(h held) float64 { return h.resident }, nil))
	}
	var bars []string
	for with := range companies {
		bars = append(bars, "p50, "+with.String(), "p99, "+with.String())
	}
	row.Pictures = []report.Picture{{Title: row.Title, Axis: "delay of healthy sockets, ms", Bars: row.Pick(bars...)}}
	row.Head, row.Raw = r.table()
	return row
}

func (r rowSixResults) delays(with company, q float64) (values []float64) {
	for _, p := range r.phases[with] {
		values = append(values, float64(p.seen.Latency.Quantile(q))/float64(time.Millisecond))
	}
	return values
}

// ratios are the delays in company a by those in company b, round by round.
func (r rowSixResults) ratios(a, b company, q float64) []float64 {
	values, by := r.delays(a, q), r.delays(b, q)
	for i := range values {
		values[i] /= by[i]
	}
	return values
}

// noise is what the ratio of two rounds is when nothing is changed between them.
func (r rowSixResults) noise() (values []float64) {
	p99 := r.delays(alone, 0.99)
	for i := 1; i < len(p99); i++ {
		values = append(values, p99[i]/p99[i-1])
	}
	return values
}

// trust says whether this run was calm enough for its ratios to mean something.
func (r rowSixResults) trust() string {
	worst := 1.0
	for _, v := range r.noise() {
		worst = max(worst, v, 1/v)
	}
	switch {
	case len(r.noise()) == 0:
		return "**One round does not show how noisy the machine was**, so the verdicts on the delay are not to be relied on."
	case worst > goalStalled:
		return fmt.Sprintf("**This run was too noisy to judge the delay**, whichever verdict stands above: with nothing changed, p99 differed "+
			"by a factor of up to %.2f from one round to the next, and the goal is %g. What follows below holds all the same, except for the delay.", worst, goalStalled)
	}
	return fmt.Sprintf("The machine was calm enough to judge the delay: with nothing changed, p99 differed by a factor of at most %.2f "+
		"from one round to the next, and the goal is %g.", worst, goalStalled)
}

func (r rowSixResults) memory(name string, with company, of func(held) float64, goal *report.Goal) report.Result {
	result := report.Result{Name: name, Unit: "MiB", Digits: 1, Goal: goal}
	for _, p := range r.phases[with] {
		result.Values = append(result.Values, mebibytes(of(p.most)))
	}
	return result
}

func mebibytes(bytes float64) float64 { return bytes / (1 << 20) }

// shows says in words what the run has shown. What does not depend on the machine was
// checked: a run in which it is not so has failed before. The delay does depend on it.
func (r rowSixResults) shows() []string {
	var events, slow uint64
	closes := map[int]uint64{}
	var waited float64
	for with := range companies {
		for _, p := range r.phases[with] {
			events += p.seen.Events
			slow += uint64(p.slow)
			waited = max(waited, p.stalled)
			for code, n := range p.closes {
				closes[code] += n
			}
		}
	}
	return []string{
		r.trust(),
		fmt.Sprintf("Every healthy socket got every event once and in order (%s deliveries were measured), "+
			"and none of them was closed.", report.Count(events)),
		fmt.Sprintf("Their delay beside stalled readers was %.2f times that with all sockets read, and %.2f times that without the others (p99, median of the rounds).",
			report.Median(r.ratios(stalled, reading, 0.99)), report.Median(r.ratios(stalled, alone, 0.99))),
		fmt.Sprintf("The fault did happen: in each of %d phases all %d stalled sockets fell behind until the edge gave them up (%s in all, "+
			"`canopy_edge_slow_consumers_total`). Their clients saw the close codes %s; 1013 asks to come back later, "+
			"1006 is the end of a connection whose close frame was no longer read.", len(r.phases[stalled]), r.o.stalled, report.Count(slow), byCode(closes)),
		fmt.Sprintf("What stalled sockets cost is bounded: at most %.1f MiB waited for them, %s bytes per socket, and the budget is %.0f MiB for the whole edge. "+
			"Events that they have not had yet are kept once, not once per socket.",
			mebibytes(waited), report.Count(uint64(waited)/uint64(r.o.stalled)), mebibytes(float64(r.budgets.SocketBytes))),
		fmt.Sprintf("NATS noticed nothing: its server counted the same %d connections before and after, no new one in between, and cut off neither "+
			"a slow consumer nor a silent client. The edge had to read again %g times from its stream.", r.connections, r.metrics[metricRepairs]),
	}
}

func byCode(closes map[int]uint64) string {
	if len(closes) == 0 {
		return "none"
	}
	var parts []string
	for _, code := range slices.Sorted(maps.Keys(closes)) {
		parts = append(parts, fmt.Sprintf("%d (%s times)", code, report.Count(closes[code])))
	}
	return strings.Join(parts, ", ")
}

func (r rowSixResults) table() (head []string, raw [][]string) {
	head = []string{"round", "company", "events", "deliveries", "bytes on the wire", "p50 ms", "p99 ms", "longest ms",
		"bytes waiting when the phase began", "most bytes waiting", "most bytes of events kept", "most resident bytes",
		"given up as slow", "stalled sockets closed by code", "healthy sockets closed"}
	bytes := func(n float64) string { return report.Count(uint64(n)) }
	for round := range r.phases[stalled] {
		for with := range companies {
			p := r.phases[with][round]
			raw = append(raw, []string{
				strconv.Itoa(round + 1), with.String(), strconv.Itoa(r.o.events()), report.Count(p.seen.Events), report.Count(p.seen.Bytes),
				milliseconds(p.seen.Latency.Quantile(0.5)), milliseconds(p.seen.Latency.Quantile(0.99)), milliseconds(p.seen.Latency.Max()),
				bytes(p.stalled), bytes(p.most.sockets), bytes(p.most.feeds), bytes(p.most.resident),
				bytes(p.slow), byCode(p.closes), strconv.Itoa(p.seen.Sockets - p.seen.Open),
			})
		}
	}
	return head, raw
}
