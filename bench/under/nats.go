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
	Store string `json:"store"` // folder for streams
}

// ServeNATS is a NATS server process with JetStream. It starts with the first question
// and ends with in.
func ServeNATS(in io.Reader, out io.Writer) error {
	var running *server.Server
	defer func() {
		if running != nil {
			running.Shutdown()
			running.WaitForShutdown()
		}
	}()
	return child.Serve(in, out, func(q natsQuestion) (any, error) {
		if running != nil {
			return nil, errors.New("the server runs already")
		}
		s, err := server.NewServer(&server.Options{
			Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: q.Store,
			NoSigs: true, NoLog: true, MaxPayload: 8 << 20, MaxPending: 256 << 20,
			PingInterval: 10 * time.Second, MaxPingsOut: 2,
		})
		if err != nil {
			return nil, fmt.Errorf("make server: %w", err)
		}
		s.Start()
		running = s
		if !s.ReadyForConnections(natsPatience) {
			return nil, fmt.Errorf("server is not ready after %s", natsPatience)
		}
		return s.ClientURL(), nil
	})
}

// StartNATS starts a server that stores its streams in the folder store, and gives its
// URL. The program must serve NATSCommand.
func StartNATS(store string) (p *child.Process, url string, err error) {
	if p, err = child.Start(NATSCommand); err != nil {
		return nil, "", err
	}
	if err := p.Ask(natsQuestion{Store: store}, &url); err != nil {
		return nil, "", errors.Join(err, p.Stop())
	}
	return p, url, nil
}
