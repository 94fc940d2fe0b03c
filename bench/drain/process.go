//go:build linux

package drain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"canopy/bench/child"
)

// Command is the argument that makes the bench program serve as a drain process.
const Command = "drain"

// question is what a crew asks its processes.
type question struct {
	Do      string        `json:"do"` // open, wait, reach, report, reset, stall, resume, replace, cover
	Config  Config        `json:"config,omitzero"`
	Events  uint64        `json:"events,omitempty"`
	Sockets int           `json:"sockets,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"`
	Over    time.Duration `json:"over,omitempty"`
	Made    []time.Time   `json:"made,omitempty"`
}

// Serve is a drain process: it opens and reads one fleet as its parent asks, until in
// ends.
func Serve(in io.Reader, out io.Writer) error {
	var fleet *Fleet
	defer func() {
		if fleet != nil {
			fleet.Close()
		}
	}()
	return child.Serve(in, out, func(q question) (any, error) {
		if q.Do == "open" {
			if fleet != nil {
				return nil, errors.New("open: the fleet is open already")
			}
			ctx, cancel := context.WithTimeout(context.Background(), q.Timeout)
			defer cancel()
			opening := Opening{From: time.Now()}
			var err error
			fleet, err = Dial(ctx, q.Config)
			opening.To = time.Now()
			return opening, err
		}
		if fleet == nil {
			return nil, fmt.Errorf("%s: no fleet is open", q.Do)
		}
		return fleet.answer(q)
	})
}

func (f *Fleet) answer(q question) (any, error) {
	switch q.Do {
	case "wait":
		return nil, f.waitFor(q.Events, q.Timeout, false)
	case "reach":
		return nil, f.waitFor(q.Events, q.Timeout, true)
	case "report":
		s := f.Snapshot()
		return &s, nil
	case "reset":
		f.Reset()
		return nil, nil
	case "stall":
		return f.Stall(q.Sockets)
	case "resume":
		return nil, f.Resume()
	case "replace":
		ctx, cancel := context.WithTimeout(context.Background(), q.Timeout)
		defer cancel()
		return nil, f.Replace(ctx, q.Sockets, q.Over)
	case "cover":
		return f.Coverage(q.Made), nil
	}
	return nil, fmt.Errorf("%s: unknown question", q.Do)
}

// waitFor waits for events in all since the last reset. Whatever makes them impossible,
// or a fault, ends it at once; more events are a fault unless more is true.
func (f *Fleet) waitFor(events uint64, timeout time.Duration, more bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	s, err := f.Wait(ctx, func(s Snapshot) bool {
		return s.Events >= events || s.Fault() != nil || s.Open < s.Sockets
	})
	switch {
	case s.Fault() != nil:
		return s.Fault()
	case s.Events > events && !more:
		return fmt.Errorf("%d events came instead of %d", s.Events, events)
	case err == nil && s.Events < events:
		return fmt.Errorf("sockets were closed after %d of %d events: by code %v %v", s.Events, events, s.Closes, s.Reasons)
	case err != nil:
		return fmt.Errorf("%d of %d events came: %w", s.Events, events, err)
	}
	return nil
}

// Crew is several drain processes that share one fleet, because one has too few
// descriptors or one core is too little. Its methods are for one goroutine.
type Crew struct {
	processes []*child.Process
	sockets   []int
	opening   Opening
}

// Opening is when sockets were opened: just before the first handshake and just after the
// last one.
type Opening struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// Start starts a crew of processes and opens cfg.Sockets sockets, shared evenly. The
// program must serve Command. If it fails nothing is left running.
func Start(cfg Config, processes int, timeout time.Duration) (*Crew, error) {
	c, err := Recruit(context.Background(), processes)
	if err != nil {
		return nil, err
	}
	if err := c.Open(cfg, timeout); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

// Recruit starts a crew of processes that have opened nothing yet. They are killed when ctx
// ends. If it fails nothing is left running.
func Recruit(ctx context.Context, processes int) (*Crew, error) {
	c := &Crew{}
	for range processes {
		p, err := child.StartUntil(ctx, Command)
		if err != nil {
			return nil, errors.Join(err, c.Stop())
		}
		c.processes = append(c.processes, p)
	}
	return c, nil
}

// Open opens cfg.Sockets sockets, shared evenly. It is called once.
func (c *Crew) Open(cfg Config, timeout time.Duration) error {
	processes := len(c.processes)
	openings := make([]Opening, processes)
	for i := range processes {
		c.sockets = append(c.sockets, share(cfg.Sockets, i, processes))
	}
	err := c.each(func(i int, p *child.Process) error {
		share, from := cfg, cfg.Sockets*i/processes
		share.Sockets = c.sockets[i]
		share.Number += from
		if len(cfg.Tokens) == cfg.Sockets {
			share.Tokens = cfg.Tokens[from : from+c.sockets[i]]
		}
		return p.Ask(question{Do: "open", Config: share, Timeout: timeout}, &openings[i])
	})
	if err != nil {
		return err
	}
	c.opening = openings[0]
	for _, o := range openings {
		if o.From.Before(c.opening.From) {
			c.opening.From = o.From
		}
		if o.To.After(c.opening.To) {
			c.opening.To = o.To
		}
	}
	return nil
}

// share is part i of parts even ones of n.
func share(n, i, parts int) int { return n*(i+1)/parts - n*i/parts }

// Opening is when the crew's sockets were opened.
func (c *Crew) Opening() Opening { return c.opening }

func (c *Crew) each(do func(i int, p *child.Process) error) error {
	var group errgroup.Group
	for i, p := range c.processes {
		group.Go(func() error { return do(i, p) })
	}
	return group.Wait()
}

// Wait waits until every socket has had events events since the last Reset. Its error
// says what was lost, repeated, out of order, closed or late.
func (c *Crew) Wait(events int, timeout time.Duration) error {
	return c.each(func(i int, p *child.Process) error {
		return p.Ask(question{Do: "wait", Events: uint64(events * c.sockets[i]), Timeout: timeout}, nil)
	})
}

// Reach is Wait where more events may be on their way already.
func (c *Crew) Reach(events int, timeout time.Duration) error {
	return c.each(func(i int, p *child.Process) error {
		return p.Ask(question{Do: "reach", Events: uint64(events * c.sockets[i]), Timeout: timeout}, nil)
	})
}

// Join makes one crew of several. They must not be used by themselves any more.
func Join(crews ...*Crew) *Crew {
	all := &Crew{}
	for _, c := range crews {
		all.processes = append(all.processes, c.processes...)
		all.sockets = append(all.sockets, c.sockets...)
	}
	return all
}

// Snapshot is what all processes have seen together.
func (c *Crew) Snapshot() (Snapshot, error) {
	parts := make([]Snapshot, len(c.processes))
	err := c.each(func(i int, p *child.Process) error {
		return p.Ask(question{Do: "report"}, &parts[i])
	})
	var all Snapshot
	for i := range parts {
		all.Add(&parts[i])
	}
	return all, err
}

// Reset is Fleet.Reset on every process.
func (c *Crew) Reset() error {
	return c.each(func(_ int, p *child.Process) error { return p.Ask(question{Do: "reset"}, nil) })
}

// Stall stops reading this share (0 to 1) of each process's sockets.
func (c *Crew) Stall(share float64) error {
	return c.each(func(i int, p *child.Process) error {
		want := int(share * float64(c.sockets[i]))
		var got int
		if err := p.Ask(question{Do: "stall", Sockets: want}, &got); err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("stall %d sockets: found %d", want, got)
		}
		return nil
	})
}

// Resume reads all stalled sockets again.
func (c *Crew) Resume() error {
	return c.each(func(_ int, p *child.Process) error { return p.Ask(question{Do: "resume"}, nil) })
}

// Replace is Fleet.Replace for n sockets in all, shared evenly by the processes.
func (c *Crew) Replace(n int, over, timeout time.Duration) error {
	return c.each(func(i int, p *child.Process) error {
		return p.Ask(question{Do: "replace", Sockets: share(n, i, len(c.processes)), Over: over, Timeout: timeout}, nil)
	})
}

// Coverage is Fleet.Coverage of all processes together.
func (c *Crew) Coverage(made []time.Time) (all Coverage, err error) {
	parts := make([]Coverage, len(c.processes))
	err = c.each(func(i int, p *child.Process) error {
		return p.Ask(question{Do: "cover", Made: made}, &parts[i])
	})
	for _, part := range parts {
		all.add(part)
	}
	return all, err
}

// PIDs are the processes' numbers.
func (c *Crew) PIDs() (list []int) {
	for _, p := range c.processes {
		list = append(list, p.PID())
	}
	return list
}

// Stop cuts all sockets off and ends the processes.
func (c *Crew) Stop() error {
	return c.each(func(_ int, p *child.Process) error { return p.Stop() })
}
