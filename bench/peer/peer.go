// Package peer is what a group stands beside in the bench: a process that takes events
// from the same kind of consumer with nats.go, in the plainest way, and acknowledges each.
// Its members share a connection, or each has one of its own, as clients of NATS's own
// WebSocket listener have.
package peer

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"canopy/bench/child"
	"canopy/bench/drain"
)

// Command is the argument that makes the bench program serve as a peer.
const Command = "peer"

const patience = 10 * time.Second

// Config says where a peer subscribes.
type Config struct {
	NATS    string `json:"nats"`    // URL
	Deliver string `json:"deliver"` // the consumer's deliver subject
	Queue   string `json:"queue"`   // and deliver group
	Members int    `json:"members"` // queue subscriptions
	Apart   bool   `json:"apart"`   // each has a connection of its own
}

type question struct {
	Do     string `json:"do"` // open, report, close
	Config Config `json:"config,omitzero"`
}

// Process is a running peer. Its methods may be called from any goroutine.
type Process struct{ *child.Process }

// Start starts a peer without subscriptions. The program must serve Command.
func Start() (*Process, error) {
	p, err := child.Start(Command)
	if err != nil {
		return nil, err
	}
	return &Process{p}, nil
}

// Open subscribes.
func (p *Process) Open(cfg Config) error { return p.Ask(question{Do: "open", Config: cfg}, nil) }

// Report says what has come since Open, of Snapshot only what a peer can know.
func (p *Process) Report() (s drain.Snapshot, err error) {
	err = p.Ask(question{Do: "report"}, &s)
	return s, err
}

// Close ends the subscriptions.
func (p *Process) Close() error { return p.Ask(question{Do: "close"}, nil) }

// Serve is a peer's process. It ends with in.
func Serve(in io.Reader, out io.Writer) error {
	var running *consumer
	defer func() { running.close() }()
	return child.Serve(in, out, func(q question) (any, error) {
		switch {
		case q.Do == "open" && running == nil:
			c, err := open(q.Config)
			if err == nil {
				running = c
			}
			return nil, err
		case q.Do == "report" && running != nil:
			s := running.snapshot()
			return &s, nil
		case q.Do == "close" && running != nil:
			running.close()
			running = nil
			return nil, nil
		}
		return nil, fmt.Errorf("%s: not now", q.Do)
	})
}

// consumer is all subscriptions.
type consumer struct {
	connections []*nats.Conn
	members     []*member
}

// member is one subscription, whose messages one goroutine takes.
type member struct {
	mu      sync.Mutex
	counter drain.Counter
	last    uint64 // the latest number
	seen    drain.Snapshot
}

func open(cfg Config) (c *consumer, err error) {
	c = &consumer{}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	for i := range cfg.Members {
		if i == 0 || cfg.Apart {
			nc, err := nats.Connect(cfg.NATS, nats.Name("canopy-bench peer"))
			if err != nil {
				return nil, fmt.Errorf("connect to NATS: %w", err)
			}
			c.connections = append(c.connections, nc)
		}
		m := &member{seen: drain.Snapshot{Sockets: 1, Open: 1, Numbers: &drain.Numbers{}}}
		if _, err := c.connections[len(c.connections)-1].QueueSubscribe(cfg.Deliver, cfg.Queue, m.take); err != nil {
			return nil, fmt.Errorf("subscribe to %s: %w", cfg.Deliver, err)
		}
		c.members = append(c.members, m)
	}
	for _, nc := range c.connections {
		if err := nc.FlushTimeout(patience); err != nil {
			return nil, fmt.Errorf("subscribe to %s: %w", cfg.Deliver, err)
		}
	}
	return c, nil
}

// take notes one event and acknowledges it.
func (m *member) take(msg *nats.Msg) {
	m.mu.Lock()
	m.see(msg.Data, time.Now())
	m.mu.Unlock()
	_ = msg.Ack() // fails only if the connection is closed; the event is then repeated
}

func (m *member) see(data []byte, now time.Time) {
	s := &m.seen
	n, rest := m.counter.Read(data)
	switch {
	case rest == nil:
		s.Others++
		return
	case n == 0:
		s.BadNumber++
		return
	}
	s.Events++
	s.Bytes += uint64(len(data))
	if s.First.IsZero() {
		s.First = now
	}
	s.Last = now
	if !s.Numbers.Add(n) {
		s.Repeats++
	} else if n < m.last {
		s.Reorders++
	}
	m.last = max(m.last, n)
}

// snapshot is what all members have seen together.
func (c *consumer) snapshot() (all drain.Snapshot) {
	for _, m := range c.members {
		m.mu.Lock()
		all.Add(&m.seen)
		m.mu.Unlock()
	}
	return all
}

func (c *consumer) close() {
	if c == nil {
		return
	}
	for _, nc := range c.connections {
		nc.Close()
	}
}
