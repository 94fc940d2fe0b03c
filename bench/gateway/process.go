//go:build linux

// Package gateway is what Canopy stands beside in the bench: the same job done the plain
// way with a well-known WebSocket library. It takes one application's events from NATS
// with nats.go and writes each to every socket, which has a bounded queue and goroutines
// of its own; a socket whose queue is full is closed. If there is an issuer, every socket
// must bring a token of it, which is verified as an edge verifies it.
//
// What an edge does beyond that it does not do: no place in the log, no repair of what is
// missing, no groups, no access rights, no pings.
package gateway

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"canopy/bench/child"
)

// Command is the argument that makes the bench program serve as a gateway.
const Command = "gateway"

// Libraries that a gateway can be made with.
const (
	GWS   = "gws"
	Coder = "coder/websocket"
)

const poll = time.Millisecond

// Config says what a gateway does.
type Config struct {
	Library string `json:"library"` // GWS or Coder

	// NATS is the URL of the server that has the events of Application.
	NATS        string `json:"nats"`
	Application string `json:"application"`

	// Queue is how many events may wait for one socket.
	Queue int `json:"queue"`

	// Issuer is the URL of the issuer whose tokens are asked for, meant for Audience.
	// Empty means that everybody is let in.
	Issuer   string `json:"issuer,omitempty"`
	Audience string `json:"audience,omitempty"`
}

type question struct {
	Do     string `json:"do"` // start, sockets, collect
	Config Config `json:"config,omitzero"`
}

// Serve is a gateway's process. It starts when it is asked to and ends with in.
func Serve(in io.Reader, out io.Writer) error {
	var running *server
	defer func() { running.close() }()
	return child.Serve(in, out, func(q question) (any, error) {
		switch {
		case q.Do == "start" && running == nil:
			s, err := start(q.Config)
			if err != nil {
				return nil, err
			}
			running = s
			return s.url(), nil
		case q.Do == "sockets" && running != nil:
			return running.count(), nil
		case q.Do == "collect":
			debug.FreeOSMemory() // as the edge does when it is calm
			return nil, nil
		}
		return nil, fmt.Errorf("%s: not now", q.Do)
	})
}

// Process is a running gateway. Its methods may be called from any goroutine.
type Process struct {
	*child.Process
	url string
}

// Start starts a gateway. The program must serve Command.
func Start(cfg Config) (*Process, error) {
	p, err := child.Start(Command)
	if err != nil {
		return nil, err
	}
	g := &Process{Process: p}
	if err := p.Ask(question{Do: "start", Config: cfg}, &g.url); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return g, nil
}

// URL is where sockets are opened.
func (p *Process) URL() string { return p.url }

// Await waits until the gateway has that many sockets: a client sees its handshake's end,
// and its own end, a moment before the server does.
func (p *Process) Await(sockets int, timeout time.Duration) error {
	for deadline := time.Now().Add(timeout); ; {
		var n int
		if err := p.Ask(question{Do: "sockets"}, &n); err != nil {
			return err
		}
		if n == sockets {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("gateway has %d sockets instead of %d after %s", n, sockets, timeout)
		}
		time.Sleep(poll)
	}
}

// Collect collects garbage.
func (p *Process) Collect() error { return p.Ask(question{Do: "collect"}, nil) }
