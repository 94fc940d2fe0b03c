//go:build linux

package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"canopy/bench/report"
)

var fleetNotes = []string{
	"Edges, NATS and all clients run on this one machine and share its cores and its memory, so both ends of every connection are here: " +
		"the kernel's memory is that of two TCP sockets for each one of Canopy's, and half of the processor's time goes to clients. " +
		"Every figure was measured once.",
	"Each client process checks on each of its sockets that every event comes once and in order, and answers each Ping.",
}

const shownCaches = 12

// rows are the report of what happened until failure, nil if nothing failed.
func (f *fleet) rows(failure error) []report.Row {
	o := f.opts.fleet
	row := report.Row{
		Title: fmt.Sprintf("11. A fleet of %s sockets on one machine", report.Count(uint64(o.sockets))),
		What: fmt.Sprintf("%s with %s sockets each at most, and as many client processes, because one process may have too few descriptors for all. "+
			"All sockets read one public application, which needs no sign-in. They come from addresses of 127.0.0.0/8, eight for each client process. "+
			"After they were opened they are left alone for %s, but for Pings: a socket that was silent for %s gets one and must answer within %s. "+
			"Then come %s of %d bytes, each when all sockets have had the one before. Then %g %% of the sockets are replaced each second for %s, those that have been open for longest, while events come, again each when all have had the one before. "+
			"Settings beside the defaults: GOMAXPROCS=%s, EDGE__PING__INTERVAL=%s, EDGE__PING__TIMEOUT=%s, EDGE__DRAIN=1s; no limit of Canopy's is raised. Each edge has its usual connections to the one NATS server, which has one stream.",
			plural(o.edges(), "edge"), report.Count(uint64(o.of(o.edges()-1))), o.hold, o.ping, o.pingTimeout, plural(o.events, "event"), f.opts.size, 100*churnShare, o.churn,
			procsText(o.procs), o.ping, o.pingTimeout),
	}
	if failure != nil {
		row.Shows = append(row.Shows, fmt.Sprintf("**This run failed**, after it had %s sockets open: %v.", report.Count(uint64(f.opened.Load())), failure))
	}
	rows := f.sights
	if f.last != nil {
		rows = append(slices.Clone(rows), *f.last)
	}
	f.addOpening(&row)
	f.addHold(&row)
	f.addEvents(&row)
	f.addChurn(&row)
	row.Head = []string{"moment", "seconds", "sockets", "edges, resident MiB", "edges, heap in use MiB", "edges, stacks MiB", "clients, resident MiB", "NATS, resident MiB",
		"kernel's objects (slab) MiB", "page tables and kernel stacks MiB", "TCP buffers MiB", "TCP sockets", "open files", "available MiB"}
	for _, s := range rows {
		k := s.kernel
		cells := []string{s.name, fmt.Sprintf("%.0f", s.at.Sub(rows[0].at).Seconds()), report.Count(uint64(s.sockets))}
		for _, bytes := range []int64{s.edges.Resident, s.edges.HeapInUse, s.edges.Stacks, s.clients, s.nats, k.Slab, k.PageTables + k.Stacks, k.TCPMemory} {
			cells = append(cells, report.Count(uint64(bytes>>20)))
		}
		row.Raw = append(row.Raw, append(cells, report.Count(uint64(k.TCPSockets)), report.Count(uint64(k.Descriptors)), report.Count(uint64(k.Available>>20))))
	}
	all := []report.Row{row}
	if len(f.sent) > 0 {
		all = append(all, f.eventsRow())
	}
	if caches := f.cachesRow(); len(caches.Raw) > 0 {
		all = append(all, caches)
	}
	return all
}

func procsText(procs int) string {
	if procs == 0 {
		return "as Go chooses"
	}
	return strconv.Itoa(procs)
}

func once(name, unit string, digits int, value float64) report.Result {
	return report.Result{Name: name, Unit: unit, Digits: digits, Values: []float64{value}}
}

// addOpening adds the rate of opening and the memory of open sockets.
func (f *fleet) addOpening(row *report.Row) {
	if f.opening == 0 || len(f.sights) < 2 {
		return
	}
	before, there := f.sights[0], f.sights[1]
	n := float64(there.sockets)
	per := func(name string, a, b int64) report.Result { return once(name, "bytes", 0, float64(b-a)/n) }
	edges := float64(len(f.edges))
	row.Results = append(row.Results,
		once("sockets open at once", "", 0, n),
		once("edges", "", 0, edges),
		once("connections to NATS, the bench's one included", "", 0, float64(f.counts.Connections)),
		once("opening, all", "s", 1, f.opening.Seconds()),
		once("opening, rate", "sockets/s", 0, n/f.opening.Seconds()),
		per("edges, resident memory per socket", before.edges.Resident, there.edges.Resident),
		per("edges, heap in use per socket", before.edges.HeapInUse, there.edges.HeapInUse),
		per("kernel's objects per socket, both ends", before.kernel.Slab, there.kernel.Slab),
		per("clients, resident memory per socket", before.clients, there.clients),
		per("page tables and kernel stacks per socket", before.kernel.PageTables+before.kernel.Stacks, there.kernel.PageTables+there.kernel.Stacks),
		once("an edge without sockets, resident memory", "MiB", 1, mib(before.edges.Resident)/edges),
		once("a client process without sockets, resident memory", "MiB", 1, mib(before.clients)/edges),
		once("available memory less than before", "GiB", 2, gib(before.kernel.Available-there.kernel.Available)),
	)
	row.Pictures = append(row.Pictures, report.Picture{
		Title: "Memory per open socket, beyond that of the processes without sockets", Axis: "bytes",
		Bars: row.Pick("edges, resident memory per socket", "kernel's objects per socket, both ends", "clients, resident memory per socket", "page tables and kernel stacks per socket"),
	})
}

func (f *fleet) addHold(row *report.Row) {
	if f.held.took == 0 {
		return
	}
	h := f.held
	row.Results = append(row.Results,
		once("held without events", "s", 0, h.took.Seconds()),
		once("Pings sent and answered meanwhile", "", 0, float64(h.seen.Pings-h.seen.LostPongs)),
		once("Pings a second", "", 0, float64(h.seen.Pings)/h.took.Seconds()),
		once("sockets that got a Ping", "", 0, float64(h.seen.Pinged)),
		once("sockets dropped because they did not answer", "", 0, h.silent),
		once("busy cores meanwhile, edges", "", 2, h.cores.edges),
		once("busy cores meanwhile, clients", "", 2, h.cores.clients),
		once("busy cores meanwhile, NATS", "", 2, h.cores.nats),
	)
}

func (f *fleet) addEvents(row *report.Row) {
	if len(f.sent) == 0 {
		return
	}
	all := func(name, unit string, digits int, figure func(delivery) float64) report.Result {
		r := report.Result{Name: name, Unit: unit, Digits: digits}
		for _, d := range f.sent {
			r.Values = append(r.Values, figure(d))
		}
		return r
	}
	row.Results = append(row.Results,
		all("one event to all, to the last socket", "s", 2, func(d delivery) float64 { return d.seen.Last.Sub(d.start).Seconds() }),
		all("one event to all, to half of the sockets", "s", 2, func(d delivery) float64 { return d.seen.Latency.Quantile(0.5).Seconds() }),
		all("deliveries", "deliveries/s", 0, delivery.rate),
		all("edges' CPU per delivery", "ns", 0, func(d delivery) float64 {
			return float64(d.cpu.edges.Nanoseconds()) / float64(d.seen.Events)
		}),
	)
	row.Shows = append(row.Shows, fmt.Sprintf("Each of the %s sockets got each of %s exactly once.", report.Count(uint64(f.opts.fleet.sockets)), plural(len(f.sent), "event")))
}

func (d delivery) rate() float64 { return float64(d.seen.Events) / d.seen.Last.Sub(d.start).Seconds() }

func (f *fleet) addChurn(row *report.Row) {
	if f.churned.took == 0 {
		return
	}
	c := f.churned
	row.Results = append(row.Results,
		once("churn, sockets replaced", "", 0, float64(c.sockets)),
		once("churn, rate", "sockets/s", 0, float64(c.sockets)/c.took.Seconds()),
		once("churn, share of the sockets", "%/s", 3, 100*float64(c.sockets)/c.took.Seconds()/float64(f.opts.fleet.sockets)),
		once("busy cores during the churn, edges", "", 2, c.cores.edges),
		once("busy cores during the churn, clients", "", 2, c.cores.clients),
	)
	if c.coverage.Sockets == 0 {
		return
	}
	row.Results = append(row.Results,
		once("events during the churn, and one behind it", "", 0, float64(c.events)),
		once("deliveries of these", "", 0, float64(c.seen.Events)),
		once("p99 from publish to delivery during the churn", "s", 2, c.seen.Latency.Quantile(0.99).Seconds()),
		once("longest", "s", 2, c.seen.Latency.Max().Seconds()),
	)
	if c.coverage.Behind+c.coverage.Late == 0 && c.seen.Fault() == nil {
		row.Shows = append(row.Shows, fmt.Sprintf("After the churn %s sockets were open, %s of them newcomers. Each had every event that was made after its handshake, once and in order; "+
			"events that were made before, but came behind the handshake: %s. What came to sockets that were replaced had no holes and no repetitions either, up to their end.",
			report.Count(uint64(c.coverage.Sockets)), report.Count(uint64(c.coverage.Newcomers)), report.Count(c.coverage.Early)))
	}
	if f.held.took > 0 {
		row.Shows = append(row.Shows, fmt.Sprintf("From the last handshake of opening to the end of the churn all sockets were open for %s.",
			f.sights[len(f.sights)-1].at.Sub(f.sights[1].at).Round(time.Second)))
	}
}

// eventsRow has the raw counts of events to all.
func (f *fleet) eventsRow() report.Row {
	row := report.Row{
		Title: "Events to all, raw counts",
		What:  "Seconds are from just before the event was published. The processor time is that of all processes of a kind, and has Pings in it. TCP buffers are those of the whole machine, looked at five times a second.",
		Head:  []string{"event", "deliveries", "to the first s", "p50 s", "p99 s", "to the last s", "bytes on the wire", "edges' CPU s", "clients' CPU s", "NATS' CPU s", "TCP buffers at most MiB"},
	}
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }
	for i, d := range f.sent {
		row.Raw = append(row.Raw, []string{
			strconv.Itoa(i + 1), report.Count(d.seen.Events), seconds(d.seen.First.Sub(d.start)), seconds(d.seen.Latency.Quantile(0.5)), seconds(d.seen.Latency.Quantile(0.99)),
			seconds(d.seen.Last.Sub(d.start)), report.Count(d.seen.Bytes), seconds(d.cpu.edges), seconds(d.cpu.clients), seconds(d.cpu.nats), report.Count(uint64(d.peak >> 20)),
		})
	}
	return row
}

// cachesRow says which of the kernel's objects open sockets need.
func (f *fleet) cachesRow() report.Row {
	row := report.Row{
		Title: "The kernel's objects",
		What:  "How much memory each kind of the kernel's objects has got between the start of the edges and the last handshake, by /proc/slabinfo, and that divided by the sockets; both ends together. Kinds of the same size may share a line and a name.",
		Head:  []string{"objects", "bytes", "per socket"},
	}
	if len(f.sights) < 2 || f.sights[1].kernel.Caches == nil {
		return row
	}
	before, there := f.sights[0].kernel.Caches, f.sights[1].kernel.Caches
	names := slices.SortedFunc(maps.Keys(there), func(a, b string) int {
		return cmp.Compare(there[b]-before[b], there[a]-before[a])
	})
	for _, name := range names[:min(shownCaches, len(names))] {
		grown := there[name] - before[name]
		row.Raw = append(row.Raw, []string{name, report.Count(uint64(max(0, grown))), fmt.Sprintf("%.0f", float64(grown)/float64(f.sights[1].sockets))})
	}
	return row
}
