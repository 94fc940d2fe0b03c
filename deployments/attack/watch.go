//go:build linux

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"canopy/bench/under"
	"canopy/bench/usage"
)

const lookEvery = 200 * time.Millisecond

// phase is what was seen in one of the two.
type phase struct {
	sight
	edges map[string]cost
}

// cost is what an edge has used in a phase, and what it says about it.
type cost struct {
	resident  int64   // most, bytes
	held      float64 // most that waited for sockets which do not read, bytes
	processor float64 // cores
	counted   map[string]float64
	unready   int // looks at which it was not ready, or did not say
}

// counters are those whose growth is reported.
var counters = []string{
	"canopy_edge_closed_total", "canopy_edge_over_limit_total", "canopy_edge_requests_total",
	"canopy_edge_slow_consumers_total", "canopy_edge_cut", "canopy_edge_socket_pauses_total", "canopy_edge_gaps_total",
}

// watch looks at the edges and the honest for so long.
func watch(ctx context.Context, w *world, h *honest, long time.Duration) (p phase, err error) {
	h.take()
	p.edges = map[string]cost{}
	before := map[string]map[string]float64{}
	used := map[string]time.Duration{}
	for name, e := range w.edges() {
		if before[name], err = e.Metrics(ctx); err != nil {
			return p, err
		}
		if used[name], err = usage.CPU(e.PID()); err != nil {
			return p, err
		}
	}
	began := time.Now()
	if err := look(ctx, w, p.edges, long); err != nil {
		return p, err
	}
	p.sight = h.take()
	for name, e := range w.edges() {
		c := p.edges[name]
		total, err := usage.CPU(e.PID())
		if err != nil {
			return p, err
		}
		c.processor = (total - used[name]).Seconds() / time.Since(began).Seconds()
		after, err := e.Metrics(ctx)
		if err != nil {
			return p, err
		}
		c.counted = grown(before[name], after)
		p.edges[name] = c
	}
	return p, nil
}

// look notes the most that the edges use at any time.
func look(ctx context.Context, w *world, costs map[string]cost, long time.Duration) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	end := time.After(long)
	for {
		for name, e := range w.edges() {
			c := costs[name]
			if err := c.look(ctx, e); err != nil {
				return err
			}
			costs[name] = c
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end:
			return nil
		case <-tick.C:
		}
	}
}

func (c *cost) look(ctx context.Context, e *under.Edge) error {
	resident, err := usage.Resident(e.PID())
	if err != nil {
		return err
	}
	c.resident = max(c.resident, resident)
	m, err := e.Metrics(ctx)
	if err != nil {
		c.unready++
		return nil
	}
	c.held = max(c.held, m["canopy_edge_socket_bytes"])
	return nil
}

// grown are the counters that went up, with how much.
func grown(before, after map[string]float64) map[string]float64 {
	more := map[string]float64{}
	for name, n := range after {
		wanted := slices.ContainsFunc(counters, func(c string) bool { return strings.HasPrefix(name, c) })
		if n -= before[name]; wanted && n > 0 {
			more[name] = n
		}
	}
	return more
}

// list writes figures in the order of their names.
func list[N int | float64](figures map[string]N) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(figures)) {
		parts = append(parts, fmt.Sprintf("%s %v", strings.TrimPrefix(name, "canopy_edge_"), figures[name]))
	}
	return strings.Join(parts, ", ")
}
