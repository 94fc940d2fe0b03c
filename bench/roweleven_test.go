//go:build linux

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"canopy/bench/drain"
	"canopy/bench/usage"
)

func smallFleet(t *testing.T, more ...string) options {
	t.Helper()
	o, err := parse(append([]string{"-rows", "11", "-edge", built(t, "edge"), "-fleet", "700", "-fleet-per-edge", "400",
		"-fleet-ping", "1s", "-fleet-ping-timeout", "2s", "-fleet-hold", "3s", "-fleet-events", "2", "-fleet-churn", "4s", "-fleet-churn-events", "2"}, more...))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestASmallFleetIsHeldPingedServedAndChurned(t *testing.T) {
	results := filepath.Join(t.TempDir(), "FLEET.md")
	if err := run(t.Context(), smallFleet(t, "-out", results)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| sockets open at once | 700 |", "| edges | 2 |", "| sockets that got a Ping | 700 |",
		"Each of the 700 sockets got each of 2 events exactly once.", "| 2 | 700 |", "After the churn 700 sockets were open, 2 of them newcomers", "| after the churn |"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("results have no %q:\n%s", want, text)
		}
	}
	if svg, err := os.ReadFile(filepath.Join(filepath.Dir(results), "fleet-11.svg")); err != nil || !strings.Contains(string(svg), "kernel") {
		t.Errorf("picture: %v:\n%s", err, svg)
	}
}

func TestAFleetStopsEverythingWhenMemoryRunsOutOrItIsInterrupted(t *testing.T) {
	o := smallFleet(t)
	t.Run("memory runs out", func(t *testing.T) {
		f := newFleet(o)
		f.kernel = func(bool) (usage.Kernel, error) {
			k, err := usage.ReadKernel(false)
			if f.opened.Load() == int64(o.fleet.sockets) {
				k.Available = leastAvailable - 1
			}
			return k, err
		}
		rows, err := f.measure(t.Context())
		if !errors.Is(err, errMemory) || len(rows) == 0 {
			t.Fatalf("%d rows, error %v", len(rows), err)
		}
		if shows := strings.Join(rows[0].Shows, "\n"); !strings.Contains(shows, "**This run failed**, after it had 700 sockets open") {
			t.Errorf("the report says %q", shows)
		}
		last := rows[0].Raw[len(rows[0].Raw)-1]
		if !strings.HasPrefix(last[0], "stopped while ") || last[2] != "700" || last[3] == "0" {
			t.Errorf("it held %q", last)
		}
		nothingRuns(t, f)
	})
	t.Run("interrupted", func(t *testing.T) {
		ctx, interrupt := context.WithCancel(t.Context())
		f := newFleet(o)
		f.kernel = func(bool) (usage.Kernel, error) {
			if f.opened.Load() > 0 {
				interrupt()
			}
			return usage.ReadKernel(false)
		}
		if rows, err := f.measure(ctx); !errors.Is(err, context.Canceled) || len(rows) > 0 {
			t.Errorf("%d rows, error %v", len(rows), err)
		}
		nothingRuns(t, f)
	})
}

// nothingRuns is about the fleet's processes and its folder.
func nothingRuns(t *testing.T, f *fleet) {
	t.Helper()
	pids := append([]int{f.nats.PID()}, f.clients...)
	for _, e := range f.edges {
		pids = append(pids, e.PID())
	}
	if len(pids) != 5 {
		t.Errorf("there were %d processes", len(pids))
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
			t.Errorf("process %d is there: %v", pid, err)
		}
	}
	if _, err := os.Stat(f.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder %s is there: %v", f.dir, err)
	}
}

func TestAFleetSaysAllThatTheMachineLacks(t *testing.T) {
	o := fleetOptions{sockets: 1e9, perEdge: 1e8}
	lacks, err := o.lacks()
	if err != nil {
		t.Fatal(err)
	}
	all := errors.Join(lacks...)
	for _, want := range []string{"MemAvailable", "ulimit -Hn", "fs.file-max", "net.ipv4.tcp_mem", "ip_local_port_range"} {
		if all == nil || !strings.Contains(all.Error(), want) {
			t.Errorf("%v does not name %s", all, want)
		}
	}
	if _, err := rowEleven(t.Context(), options{fleet: o}); err == nil || !strings.Contains(err.Error(), "lacks") {
		t.Errorf("it begins all the same: %v", err)
	}
	if lacks, err := (fleetOptions{sockets: 100, perEdge: 50}).lacks(); err != nil || len(lacks) > 0 {
		t.Errorf("a small fleet lacks %v, %v", lacks, err)
	}
}

func TestAFleetIsSharedEvenly(t *testing.T) {
	for _, o := range []fleetOptions{{sockets: 1, perEdge: 19_000}, {sockets: 19_001, perEdge: 19_000}, {sockets: 1_000_000, perEdge: 19_000}} {
		sum := 0
		for i := range o.edges() {
			n := o.of(i)
			if n < 1 || n > o.perEdge {
				t.Errorf("%+v: edge %d has %d", o, i, n)
			}
			sum += n
		}
		if sum != o.sockets {
			t.Errorf("%+v: %d in all", o, sum)
		}
	}
}

func TestAChurnThatMissesSomethingFails(t *testing.T) {
	good := churned{
		sockets:  2,
		seen:     drain.Snapshot{Open: 10, Replaced: 2},
		coverage: drain.Coverage{Sockets: 10},
	}
	if err := good.check(10); err != nil {
		t.Errorf("an exact churn fails: %v", err)
	}
	for name, spoil := range map[string]func(*churned){
		"hole":         func(c *churned) { c.seen.Holes = 1 },
		"repeat":       func(c *churned) { c.seen.Repeats = 1 },
		"closed":       func(c *churned) { c.seen.Open = 9 },
		"other":        func(c *churned) { c.seen.Others = 1 },
		"behind":       func(c *churned) { c.coverage.Behind = 1 },
		"late":         func(c *churned) { c.coverage.Late = 1 },
		"not replaced": func(c *churned) { c.seen.Replaced = 1 },
	} {
		bad := good
		spoil(&bad)
		if bad.check(10) == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestEventsOfAChurnAreSpreadOverIt(t *testing.T) {
	o := fleetOptions{churn: time.Minute, churnEvents: 3}
	for i, want := range []time.Duration{10 * time.Second, 30 * time.Second, 50 * time.Second} {
		if got := o.churnDue(i); got != want {
			t.Errorf("event %d comes after %v, want %v", i, got, want)
		}
	}
}
