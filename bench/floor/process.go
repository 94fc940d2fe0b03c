//go:build linux

package floor

import (
	"errors"
	"fmt"
	"io"
	"time"

	"canopy/bench/child"
)

// Command is the argument that makes the bench program serve as a floor process.
const Command = "floor"

type question struct {
	Do      string `json:"do"` // url, sockets, send
	First   uint64 `json:"first,omitempty"`
	Events  int    `json:"events,omitempty"`
	Size    int    `json:"size,omitempty"`
	Threads int    `json:"threads,omitempty"`
}

// Serve is a floor process: one Server that does what its parent asks, until in ends.
func Serve(in io.Reader, out io.Writer) error {
	s, err := Listen()
	if err != nil {
		return err
	}
	defer s.Close()
	return child.Serve(in, out, func(q question) (any, error) {
		switch q.Do {
		case "url":
			return s.URL(), nil
		case "sockets":
			return s.Sockets()
		case "send":
			return s.Send(q.First, q.Events, q.Size, q.Threads)
		}
		return nil, fmt.Errorf("%s: unknown question", q.Do)
	})
}

// Process is a floor server in a process of its own. It numbers its events from 1. Its
// methods are for one goroutine.
type Process struct {
	*child.Process
	url  string
	next uint64
	size int
}

// Start starts a floor for events of size bytes. The program must serve Command.
func Start(size int) (*Process, error) {
	p, err := child.Start(Command)
	if err != nil {
		return nil, err
	}
	f := &Process{Process: p, next: 1, size: size}
	if err := p.Ask(question{Do: "url"}, &f.url); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return f, nil
}

// URL is where sockets are opened.
func (p *Process) URL() string { return p.url }

// Opened waits until the server has sockets sockets: a client sees its handshake's end
// a moment before the server does.
func (p *Process) Opened(sockets int, timeout time.Duration) error {
	for deadline := time.Now().Add(timeout); ; {
		var n int
		if err := p.Ask(question{Do: "sockets"}, &n); err != nil {
			return err
		}
		if n == sockets {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("open floor: %d of %d sockets after %s", n, sockets, timeout)
		}
		time.Sleep(time.Millisecond)
	}
}

// Send writes the next events to every socket and returns when the kernel has all of it.
func (p *Process) Send(events, threads int) (sent Sent, err error) {
	err = p.Ask(question{Do: "send", First: p.next, Events: events, Size: p.size, Threads: threads}, &sent)
	p.next += uint64(events)
	return sent, err
}
