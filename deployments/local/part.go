package local

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// part is a member of the stack that runs.
type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended
	err    error         // why; read only after done
}

// crew starts parts one after the other and stops them in the opposite order, so that each
// finds what it needs for as long as it runs. It belongs to one goroutine.
type crew struct {
	parts []*part
	ended chan *part
}

// newCrew has room for all parts and for the health of the process.
func newCrew() *crew { return &crew{ended: make(chan *part, len(Parts)+1)} }

// start runs a part and returns when it is ready. run must call ready once, return when
// its context ends, and return early only with an error. If ctx ends before the part is
// ready, the part is stopped and the error is that of ctx.
func (c *crew) start(ctx context.Context, name string, run func(ctx context.Context, ready func()) error) error {
	// Not a child of ctx: the parts stop in order, not all at once.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	ready := make(chan struct{})
	go func() {
		p.err = run(own, sync.OnceFunc(func() { close(ready) }))
		close(p.done)
		c.ended <- p
	}()
	select {
	case <-ready:
		c.parts = append(c.parts, p)
		return nil
	case <-p.done:
		cancel()
		return fmt.Errorf("start %s: %w", name, p.failure())
	case <-ctx.Done():
		cancel()
		<-p.done
		return ctx.Err()
	}
}

// wait returns nil when ctx ends, and an error when a part ends before.
func (c *crew) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case p := <-c.ended:
		return fmt.Errorf("run %s: %w", p.name, p.failure())
	}
}

// stop ends all parts, the latest first, and returns what went wrong while they stopped.
func (c *crew) stop() error {
	var errs []error
	for i := len(c.parts) - 1; i >= 0; i-- {
		p := c.parts[i]
		running := true
		select {
		case <-p.done:
			running = false // its error has been reported by wait
		default:
		}
		p.cancel()
		<-p.done
		if running && p.err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", p.name, p.err))
		}
	}
	c.parts = nil
	return errors.Join(errs...)
}

func (p *part) failure() error {
	if p.err == nil {
		return errors.New("it ended by itself")
	}
	return p.err
}
