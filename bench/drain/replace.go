//go:build linux

package drain

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Replace cuts off n sockets, those that have been open for longest first, without close
// frames, and opens a new one in the place of each, evenly over a time. A new one takes
// whatever event comes first; Coverage says whether that was early enough.
func (f *Fleet) Replace(ctx context.Context, n int, over time.Duration) error {
	start := time.Now()
	group, live := errgroup.WithContext(ctx)
	group.SetLimit(f.workers())
	for k := range n {
		select {
		case <-live.Done():
		case <-time.After(time.Until(start.Add(over * time.Duration(k) / time.Duration(n)))):
		}
		if live.Err() != nil {
			break
		}
		i := f.turn % len(f.sockets)
		f.turn++
		group.Go(func() error {
			if err := f.leave(i); err != nil {
				return err
			}
			return f.dial(live, i)
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("replace sockets: %w", err)
	}
	return ctx.Err()
}

// leave cuts socket i off and makes room for another one. It has not ended by itself.
func (f *Fleet) leave(i int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.sockets[i]
	if s.fd < 0 || s.closed {
		return fmt.Errorf("socket %d was closed by the server: %v %v", i+1, f.seen.Closes, f.seen.Reasons)
	}
	_ = unix.Close(s.fd) // nothing is left to be written that an error could concern
	if s.stalled {
		f.seen.Stalled--
	}
	if s.pinged {
		f.seen.Pinged--
	}
	f.seen.Sockets--
	f.seen.Open--
	f.seen.Replaced++
	f.sockets[i] = f.newSocket(0)
	return nil
}

// Coverage says whether open sockets have had every event since their handshakes.
type Coverage struct {
	Sockets   int    `json:"sockets"`   // that are open
	Newcomers int    `json:"newcomers"` // of these, opened after the first event was made
	Due       uint64 `json:"due"`       // deliveries of events that were made after the socket's handshake
	Early     uint64 `json:"early"`     // deliveries of events that were made before, but came behind the handshake
	Behind    int    `json:"behind"`    // sockets that have not had the last event
	Late      int    `json:"late"`      // sockets whose first event was not the first one made after their handshake, but a later one
}

func (c *Coverage) add(o Coverage) {
	c.Sockets += o.Sockets
	c.Newcomers += o.Newcomers
	c.Due += o.Due
	c.Early += o.Early
	c.Behind += o.Behind
	c.Late += o.Late
}

// Coverage compares what each open socket has had with made, which are the times just before
// the events 1, 2, … were made. What was left out or came twice in between is not looked
// for here: a Snapshot tells of it. Not with Shared or Sequences.
func (f *Fleet) Coverage(made []time.Time) (c Coverage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.sockets {
		if s := &f.sockets[i]; s.fd >= 0 {
			c.see(s, made)
		}
	}
	return c
}

func (c *Coverage) see(s *socket, made []time.Time) {
	last, due := uint64(len(made)), uint64(1)
	for due <= last && made[due-1].Before(s.joined) {
		due++
	}
	c.Sockets++
	if due > 1 {
		c.Newcomers++
	}
	c.Due += last + 1 - due
	had := s.first > 0
	switch {
	case due <= last && (!had || s.seq.next != last+1), had && s.seq.next != last+1:
		c.Behind++
	case had && s.first > due:
		c.Late++
	case had:
		c.Early += due - s.first
	}
}
