//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"canopy/bench/drain"
	"canopy/bench/report"
)

// churnShare is how much of the sockets is replaced in each second.
const churnShare = 0.001

// churned is what happened while sockets were replaced.
type churned struct {
	sockets  int
	events   int
	took     time.Duration
	seen     drain.Snapshot
	coverage drain.Coverage
	cores    fleetCores
}

// churnDue is when event i during the churn is sent, or later if some socket has not had the
// one before: else an edge would have to give up those who come last.
func (o fleetOptions) churnDue(i int) time.Duration {
	return time.Duration((float64(i) + 0.5) / float64(o.churnEvents) * float64(o.churn))
}

// churn replaces a share of the sockets each second while events come, and then looks
// whether every open socket, old and new, has had every event since its handshake.
func (f *fleet) churn(ctx context.Context) error {
	o := f.opts.fleet
	if err := f.crew.Reset(); err != nil {
		return err
	}
	before, err := f.cpu()
	if err != nil {
		return err
	}
	first, start := len(f.made), time.Now()
	for step := 1; time.Since(start) < o.churn; step++ {
		if sent := len(f.made) - first; sent < o.churnEvents && o.churnDue(sent) <= time.Since(start) {
			if err := f.publishNext(ctx, sent == 0); err != nil {
				return err
			}
		}
		begun := time.Now()
		n := int(churnShare*float64(o.sockets)*float64(step)) - f.churned.sockets
		if err := f.crew.Replace(n, time.Second, fleetPatience); err != nil {
			return err
		}
		f.churned.sockets += n
		if step%10 == 0 {
			progress("row 11: %s sockets were replaced in %.0f s, %d events sent", report.Count(uint64(f.churned.sockets)), time.Since(start).Seconds(), len(f.made)-first)
		}
		// A second that took longer is not made up for: the report has the rate that was.
		if err := pause(ctx, max(0, time.Second-time.Since(begun))); err != nil {
			return err
		}
	}
	f.churned.took = time.Since(start)
	// One more, for the sockets that came behind the others.
	if len(f.made) > first {
		if _, err := f.covered(ctx); err != nil {
			return err
		}
	}
	if err := f.publish(ctx); err != nil {
		return err
	}
	f.churned.events = len(f.made) - first
	if f.churned.coverage, err = f.covered(ctx); err != nil {
		return err
	}
	after, err := f.cpu()
	if err != nil {
		return err
	}
	f.churned.cores = after.sub(before).over(time.Since(start))
	if f.churned.seen, err = f.crew.Snapshot(); err != nil {
		return err
	}
	if err := f.churned.check(o.sockets); err != nil {
		return err
	}
	progress("row 11: all %s open sockets, %s of them new, had every event from their handshakes on", report.Count(uint64(f.churned.coverage.Sockets)), report.Count(uint64(f.churned.coverage.Newcomers)))
	return f.look(ctx, "after the churn")
}

// publishNext sends an event of the churn if it is the first one, or if every socket has had
// the one before.
func (f *fleet) publishNext(ctx context.Context, first bool) error {
	if !first {
		if c, err := f.crew.Coverage(f.made); err != nil || c.Behind > 0 {
			return err
		}
	}
	return f.publish(ctx)
}

// covered waits until no socket is behind the last event.
func (f *fleet) covered(ctx context.Context) (c drain.Coverage, err error) {
	for end := time.Now().Add(fleetPatience); ; {
		if c, err = f.crew.Coverage(f.made); err != nil || c.Behind == 0 || time.Now().After(end) {
			return c, err
		}
		if err := pause(ctx, 250*time.Millisecond); err != nil {
			return c, err
		}
	}
}

// check is an error unless all sockets are open and had everything.
func (c churned) check(sockets int) error {
	if err := c.seen.Fault(); err != nil {
		return err
	}
	if c.seen.Open != sockets || c.coverage.Sockets != sockets || c.seen.Others > 0 {
		return fmt.Errorf("%d of %d sockets are open, %d unexpected messages: by code %v %v", c.seen.Open, sockets, c.seen.Others, c.seen.Closes, c.seen.Reasons)
	}
	if c.coverage.Behind > 0 || c.coverage.Late > 0 {
		return fmt.Errorf("%d sockets have not had the last event, %d newcomers not the first one after their handshake", c.coverage.Behind, c.coverage.Late)
	}
	if int(c.seen.Replaced) != c.sockets {
		return fmt.Errorf("%d sockets were replaced instead of %d", c.seen.Replaced, c.sockets)
	}
	return nil
}
