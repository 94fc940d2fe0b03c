//go:build linux

package e2e

import (
	"fmt"
	"slices"
	"time"
)

// cables are those of some tiers.
func cables(list []*tier, on []int) (all []*cable) {
	for _, i := range on {
		all = append(all, list[i].cables...)
	}
	return all
}

// cutTiers keeps some tiers from all nodes, until each has tried to come back.
func (r *trial) cutTiers(list []*tier, on []int) func() (string, bool) {
	before := map[int]int{}
	refused := func(i int) (n int) {
		for _, c := range list[i].cables {
			n += c.Refused()
		}
		return n - before[i]
	}
	for _, i := range on {
		before[i] = refused(i)
		for _, c := range list[i].cables {
			c.Refuse()
		}
	}
	return func() (string, bool) {
		held, n := true, 0
		for _, i := range on {
			held = soon(func() bool { return refused(i) > 0 }) && held
			n += refused(i)
		}
		for _, c := range cables(list, on) {
			c.Admit()
		}
		return fmt.Sprintf("%d connections refused", n), held
	}
}

// slowTiers makes all that goes between some tiers and the nodes wait.
func (r *trial) slowTiers(list []*tier, on []int) func() (string, bool) {
	delayed := func() (n int64) {
		for _, c := range cables(list, on) {
			n += c.Delayed()
		}
		return n
	}
	before := delayed()
	for _, c := range cables(list, on) {
		c.Slow(time.Duration(20+r.random.IntN(200)) * time.Millisecond)
	}
	return func() (string, bool) {
		for _, c := range cables(list, on) {
			c.Slow(0)
		}
		n := delayed() - before
		return fmt.Sprintf("%d pieces delayed", n), n > 0
	}
}

// losePackets loses some of what NATS says to some tiers.
func (r *trial) losePackets(list []*tier, on []int) func() (string, bool) {
	before := r.dropped(list, on)
	r.setLoss(list, on, int64(5+r.random.IntN(40)))
	return func() (string, bool) {
		r.setLoss(list, on, 0)
		n := r.dropped(list, on) - before
		return fmt.Sprintf("%d messages lost", n), n > 0
	}
}

func (r *trial) setLoss(list []*tier, on []int, percent int64) {
	for _, c := range cables(list, on) {
		c.loss.Store(percent)
	}
}

func (r *trial) dropped(list []*tier, on []int) (n int64) {
	for _, c := range cables(list, on) {
		n += c.Dropped()
	}
	return n
}

// routesOf are the routes from and to some nodes.
func (r *trial) routesOf(on []int) (list []int) {
	for i, ends := range r.cluster.ends {
		if slices.Contains(on, ends[0]) || slices.Contains(on, ends[1]) {
			list = append(list, i)
		}
	}
	return list
}

// cutRoutes keeps each of some nodes from all others.
func (r *trial) cutRoutes(on []int) func() (string, bool) {
	r.awaitStreams()
	before := r.cluster.refusedRoutes()
	for _, i := range r.routesOf(on) {
		r.cluster.routes[i].Refuse()
	}
	return func() (string, bool) {
		held := soon(func() bool { return r.cluster.refusedRoutes() > before })
		n := r.cluster.refusedRoutes() - before
		for _, i := range r.routesOf(on) {
			r.cluster.routes[i].Admit()
		}
		return fmt.Sprintf("%d connections refused", n), held
	}
}

// slowRoutes makes what nodes say to each other wait.
func (r *trial) slowRoutes(on []int) func() (string, bool) {
	delayed := func() (n int64) {
		for _, i := range r.routesOf(on) {
			n += r.cluster.routes[i].Delayed()
		}
		return n
	}
	before := delayed()
	for _, i := range r.routesOf(on) {
		r.cluster.routes[i].Slow(time.Duration(10+r.random.IntN(100)) * time.Millisecond)
	}
	return func() (string, bool) {
		for _, i := range r.routesOf(on) {
			r.cluster.routes[i].Slow(0)
		}
		n := delayed() - before
		return fmt.Sprintf("%d pieces delayed", n), n > 0
	}
}
