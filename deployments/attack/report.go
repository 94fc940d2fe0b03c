//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// report is what an attack has shown.
type report struct {
	quiet, attack phase
	honest        tally
	published     uint64
	outcomes      map[string]map[string]int // of each kind of attack
	logs          map[string]int
}

func (r report) write(out io.Writer) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format+"\n", args...) }
	p("| edge | phase | p50 | p99 | longest | most memory | held for sockets | cores |")
	p("|---|---|---|---|---|---|---|---|")
	for _, name := range slices.Sorted(maps.Keys(r.attack.edges)) {
		for _, phase := range []struct {
			name string
			phase
		}{{"quiet", r.quiet}, {"attack", r.attack}} {
			l, c := phase.latency[name], phase.edges[name]
			p("| %s | %s | %v | %v | %v | %d MiB | %d KiB | %.2f |", name, phase.name,
				rounded(l.Quantile(0.5)), rounded(l.Quantile(0.99)), rounded(l.Max()),
				c.resident>>20, int(c.held)>>10, c.processor)
		}
	}
	p("")
	p("Honest: %v, of %d events.", r.honest, r.published)
	p("Resumed: before p50 %v of %d, longest %v; during p50 %v of %d, longest %v.",
		rounded(r.quiet.resumes.Quantile(0.5)), r.quiet.resumes.Count(), rounded(r.quiet.resumes.Max()),
		rounded(r.attack.resumes.Quantile(0.5)), r.attack.resumes.Count(), rounded(r.attack.resumes.Max()))
	for _, failed := range r.failed() {
		p("Failed: %s", failed)
	}
	p("")
	for _, kind := range slices.Sorted(maps.Keys(r.outcomes)) {
		p("- %s: %s", kind, list(r.outcomes[kind]))
	}
	for _, name := range slices.Sorted(maps.Keys(r.attack.edges)) {
		p("- edge %s: %s; %d lines logged", name, list(r.attack.edges[name].counted), r.logs[name])
	}
}

func (r report) failed() []string { return append(slices.Clone(r.quiet.failed), r.attack.failed...) }

// fault says what must not be.
func (r report) fault(o options) error {
	errs := []error{r.honest.fault()}
	if failed := r.failed(); len(failed) > 0 {
		errs = append(errs, fmt.Errorf("%d honest clients failed, the first: %s", len(failed), failed[0]))
	}
	for name, c := range r.attack.edges {
		before, during := r.quiet.latency[name].Quantile(0.99), r.attack.latency[name].Quantile(0.99)
		if o.factor > 0 && during > max(time.Duration(o.factor*float64(before)), o.floor) {
			errs = append(errs, fmt.Errorf("edge %s: p99 was %v in the attack and %v before", name, rounded(during), rounded(before)))
		}
		if grew := c.resident - r.quiet.edges[name].resident; grew > o.memory<<20 {
			errs = append(errs, fmt.Errorf("edge %s grew by %d MiB in the attack", name, grew>>20))
		}
		if c.unready > 0 {
			errs = append(errs, fmt.Errorf("edge %s did not show its metrics %d times", name, c.unready))
		}
	}
	for kind, outcomes := range r.outcomes {
		if !tookPlace(outcomes) {
			errs = append(errs, fmt.Errorf("attack %s did not take place: %v", kind, outcomes))
		}
	}
	return errors.Join(errs...)
}

func rounded(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
