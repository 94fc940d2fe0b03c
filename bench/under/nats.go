//go:build linux

// Package under starts what a bench measures, and what that needs: an edge and the NATS
// server that feeds it, each a process of its own.
package under

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"canopy/bench/child"
)

// NATSCommand is the argument that makes the bench program serve as a NATS server.
const NATSCommand = "nats"

const natsPatience = 20 * time.Second

type natsQuestion struct {
	Do    string `json:"do"`              // start, counts
	Store string `json:"store,omitempty"` // folder for streams
}

// natsURLs are where a NATS server is reached.
type natsURLs struct {
	Client    string `json:"client"`
	WebSocket string `json:"websocket"` // of its own listener, which speaks NATS' protocol inside
}

// NATSCounts is what a NATS server says about those who are connected to it.
type NATSCounts struct {
	Connections   int    `json:"connections"`    // at the moment
	Total         uint64 `json:"total"`          // ever; a reconnection counts again
	SlowConsumers int64  `json:"slow_consumers"` // cut off because they did not read fast enough
	Stale         int64  `json:"stale"`          // cut off because they answered no ping
	Subscriptions uint32 `json:"subscriptions"`  // at the moment, the server's own included
}

// ServeNATS is a NATS server process with JetStream. It starts when it is asked to and
// ends with in.
func ServeNATS(in io.Reader, out io.Writer) error {
	var running *server.Server
	defer func() {
		if running != nil {
			running.Shutdown()
			running.WaitForShutdown()
		}
	}()
	return child.Serve(in, out, func(q natsQuestion) (any, error) {
		switch {
		case q.Do == "counts" && running != nil:
			return counts(running)
		case q.Do != "start" || running != nil:
			return nil, fmt.Errorf("%s: not now", q.Do)
		}
		s, err := server.NewServer(&server.Options{
			Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: q.Store,
			NoSigs: true, NoLog: true, MaxPayload: 8 << 20, MaxPending: 256 << 20,
			PingInterval: 10 * time.Second, MaxPingsOut: 2, SyncInterval: 10 * time.Second,
			Websocket: server.WebsocketOpts{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoTLS: true},
		})
		if err != nil {
			return nil, fmt.Errorf("make server: %w", err)
		}
		s.Start()
		running = s
		if !s.ReadyForConnections(natsPatience) {
			return nil, fmt.Errorf("server is not ready after %s", natsPatience)
		}
		return natsURLs{s.ClientURL(), s.WebsocketURL()}, nil
	})
}

func counts(s *server.Server) (NATSCounts, error) {
	v, err := s.Varz(nil)
	if err != nil {
		return NATSCounts{}, fmt.Errorf("read server's counts: %w", err)
	}
	return NATSCounts{v.Connections, v.TotalConnections, v.SlowConsumers, v.StaleConnections, v.Subscriptions}, nil
}

// NATS is a running NATS server. Its methods may be called from any goroutine.
type NATS struct {
	process *child.Process
	urls    natsURLs
}

// StartNATS starts a server that stores its streams in the folder store. The program
// must serve NATSCommand.
func StartNATS(store string) (*NATS, error) {
	p, err := child.Start(NATSCommand)
	if err != nil {
		return nil, err
	}
	n := &NATS{process: p}
	if err := p.Ask(natsQuestion{Do: "start", Store: store}, &n.urls); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return n, nil
}

// URL is where clients connect.
func (n *NATS) URL() string { return n.urls.Client }

// WebSocketURL is where clients connect by WebSocket.
func (n *NATS) WebSocketURL() string { return n.urls.WebSocket }

// PID is the process's number.
func (n *NATS) PID() int { return n.process.PID() }

// Counts asks the server about its connections.
func (n *NATS) Counts() (c NATSCounts, err error) {
	err = n.process.Ask(natsQuestion{Do: "counts"}, &c)
	return c, err
}

// Stop ends the server.
func (n *NATS) Stop() error { return n.process.Stop() }
