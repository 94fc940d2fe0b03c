//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"canopy/bench/drain"
	"canopy/bench/report"
	"canopy/bench/under"
	"canopy/bench/usage"
)

const (
	metricSilent  = "canopy_edge_silent_total"
	metricSockets = `drogue_connections{protocol="ws",type="integration"}`

	// fleetTogether is how many edges are asked or stopped at once, so that none of them
	// waits too long for a core.
	fleetTogether = 6
)

// fleet is a stage with very many edges, each with a client process of its own.
type fleet struct {
	*stage
	cancel context.CancelCauseFunc
	kernel func(caches bool) (usage.Kernel, error) // what the guard asks
	edges  []*under.Edge
	crews  []*drain.Crew // one for each edge, until they are joined
	crew   *drain.Crew   // all of them

	clients []int       // numbers of the clients' processes; it does not change once sockets are opened
	last    *fleetSight // when memory ran out; the guard's until it has ended

	opened  atomic.Int64 // sockets
	opening time.Duration
	made    []time.Time // just before each event

	held    fleetHeld
	sent    []delivery
	churned churned
	counts  under.NATSCounts // when all sockets were open
	sights  []fleetSight

	peak  peak
	mu    sync.Mutex // guards phase
	phase string
}

// fleetHeld is what happened while the sockets were left alone.
type fleetHeld struct {
	took   time.Duration
	seen   drain.Snapshot
	silent float64 // sockets dropped because they answered no Ping
	cores  fleetCores
}

// delivery is one event to all.
type delivery struct {
	seen  drain.Snapshot
	start time.Time
	cpu   fleetUsed
	peak  int64 // bytes in buffers of TCP sockets
}

// fleetUsed is processor time.
type fleetUsed struct{ edges, clients, nats time.Duration }

func (u fleetUsed) sub(o fleetUsed) fleetUsed {
	return fleetUsed{u.edges - o.edges, u.clients - o.clients, u.nats - o.nats}
}

// fleetCores is processor time by time: how many cores were busy.
type fleetCores struct{ edges, clients, nats float64 }

func (u fleetUsed) over(t time.Duration) fleetCores {
	return fleetCores{u.edges.Seconds() / t.Seconds(), u.clients.Seconds() / t.Seconds(), u.nats.Seconds() / t.Seconds()}
}

// fleetSight is what everything held at a moment.
type fleetSight struct {
	name    string
	at      time.Time
	sockets int64        // of clients, open
	edges   under.Memory // of all edges
	clients int64        // resident memory of all client processes
	nats    int64        // resident memory
	kernel  usage.Kernel
}

func (f *fleet) enter(phase string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.phase = phase
}

func (f *fleet) during() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.phase
}

// start starts NATS, the edges and the clients' processes, which have no sockets yet.
func (f *fleet) start(ctx context.Context) error {
	o := f.opts.fleet
	settings := []string{
		"EDGE__PING__INTERVAL=" + o.ping.String(), "EDGE__PING__TIMEOUT=" + o.pingTimeout.String(),
	}
	if o.procs > 0 {
		settings = append(settings, "GOMAXPROCS="+strconv.Itoa(o.procs))
	}
	if err := f.stage.open(ctx, settings...); err != nil {
		return err
	}
	f.edges, f.stage.edge = append(f.edges, f.stage.edge), nil
	for i := 1; i < o.edges(); i++ {
		dir := filepath.Join(f.dir, "edge-"+strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
		edge, err := f.startEdge(ctx, dir, settings...)
		if err != nil {
			return err
		}
		f.edges = append(f.edges, edge)
	}
	progress("row 11: %s run", plural(o.edges(), "edge"))
	for range f.edges {
		crew, err := drain.Recruit(ctx, 1)
		if err != nil {
			return err
		}
		f.crews = append(f.crews, crew)
		f.clients = append(f.clients, crew.PIDs()...)
	}
	return f.look(ctx, "before")
}

// open opens all sockets, at as many edges at once as there are cores.
func (f *fleet) open(ctx context.Context) error {
	o := f.opts.fleet
	begun := time.Now()
	group, live := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for i := range f.edges {
		if live.Err() != nil {
			break
		}
		group.Go(func() error {
			err := f.crews[i].Open(drain.Config{
				URL: f.edges[i].URL(), Sockets: o.of(i), First: 1, Look: fleetLook,
				Concurrency: fleetConcurrency, HandshakeTimeout: time.Minute,
			}, fleetPatience)
			if err != nil {
				return err
			}
			return f.openedMore(o.of(i), begun)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	f.opening = time.Since(begun)
	f.crew, f.crews = drain.Join(f.crews...), nil
	if err := ctx.Err(); err != nil {
		return err
	}
	var err error
	if f.counts, err = f.nats.Counts(); err != nil {
		return err
	}
	return f.look(ctx, "all open")
}

// openedMore says how far opening is.
func (f *fleet) openedMore(sockets int, begun time.Time) error {
	all := f.opened.Add(int64(sockets))
	k, err := usage.ReadKernel(false)
	if err != nil {
		return err
	}
	progress("row 11: %s of %s sockets are open, %.0f a second; %.1f GiB of memory are available, %.0f MiB wait in TCP buffers",
		report.Count(uint64(all)), report.Count(uint64(f.opts.fleet.sockets)), float64(all)/time.Since(begun).Seconds(), gib(k.Available), mib(k.TCPMemory))
	return nil
}

// look notes what everything holds. The edges' garbage is collected before, which takes
// some seconds.
func (f *fleet) look(ctx context.Context, name string) (err error) {
	s := fleetSight{name: name, at: time.Now(), sockets: f.opened.Load()}
	var mu sync.Mutex // guards s.edges
	group, live := errgroup.WithContext(ctx)
	group.SetLimit(fleetTogether)
	for _, e := range f.edges {
		group.Go(func() error {
			m, err := e.Memory(live)
			mu.Lock()
			defer mu.Unlock()
			s.edges.Resident += m.Resident
			s.edges.HeapInUse += m.HeapInUse
			s.edges.Stacks += m.Stacks
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := s.readRest(f); err != nil {
		return err
	}
	f.sights = append(f.sights, s)
	return nil
}

// readRest reads what needs nobody's answer.
func (s *fleetSight) readRest(f *fleet) (err error) {
	for _, pid := range f.clients {
		resident, err := usage.Resident(pid)
		if err != nil {
			return err
		}
		s.clients += resident
	}
	if s.nats, err = usage.Resident(f.nats.PID()); err != nil {
		return err
	}
	s.kernel, err = usage.ReadKernel(true)
	return err
}

// lastSight is what everything holds, quickly, for who ends it at once. Sockets are being
// opened or open.
func (f *fleet) lastSight() *fleetSight {
	s := &fleetSight{name: "stopped while " + f.during(), at: time.Now(), sockets: f.opened.Load()}
	for _, e := range f.edges {
		if resident, err := usage.Resident(e.PID()); err == nil {
			s.edges.Resident += resident
		}
	}
	_ = s.readRest(f) // what could not be read stays 0
	return s
}

// sum is a metric of all edges together.
func (f *fleet) sum(ctx context.Context, metric string) (sum float64, err error) {
	for _, e := range f.edges {
		metrics, err := e.Metrics(ctx)
		if err != nil {
			return 0, err
		}
		sum += metrics[metric]
	}
	return sum, nil
}

// close ends everything. After a failure the clients are killed, whatever they are doing.
func (f *fleet) close(failure error) error {
	progress("row 11: stopping everything")
	if failure != nil {
		f.cancel(failure)
	}
	crews := f.crews
	if f.crew != nil {
		crews = append(crews, f.crew)
	}
	var errs []error
	for _, crew := range crews {
		if err := crew.Stop(); failure == nil {
			errs = append(errs, err)
		}
	}
	if failure == nil {
		errs = append(errs, f.emptied())
	}
	var group errgroup.Group
	group.SetLimit(fleetTogether)
	for _, edge := range f.edges {
		group.Go(func() error {
			if err := edge.Stop(); failure == nil {
				return err
			}
			return nil // it may have ended for the same reason
		})
	}
	errs = append(errs, group.Wait())
	err := f.stage.close()
	if failure == nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// emptied waits until the edges have noticed that all clients are gone. An edge that must
// end while the others are at that may not get a core in time.
func (f *fleet) emptied() error {
	ctx, cancel := context.WithTimeout(context.Background(), fleetPatience)
	defer cancel()
	for {
		left, err := f.sum(ctx, metricSockets)
		if err != nil || left == 0 {
			return err
		}
		if err := pause(ctx, time.Second); err != nil {
			return fmt.Errorf("%g sockets are open whose clients are gone: %w", left, err)
		}
	}
}

func gib(bytes int64) float64 { return float64(bytes) / (1 << 30) }
func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
