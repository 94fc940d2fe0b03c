//go:build linux

package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"

	"canopy/shared/event"
	"canopy/shared/subject"
)

// message is one event, which all sockets share.
type message struct{ payload []byte }

// socket is one open socket of either library.
type socket interface {
	// push queues m. It is false if the queue is full. It is called from one goroutine.
	push(m *message) bool

	// cut ends the connection.
	cut()
}

// upgrade answers a handshake. left is called once, when the socket has ended; it may be
// called before upgrade returns.
type upgrade func(w http.ResponseWriter, r *http.Request, left func(socket)) (socket, error)

var libraries = map[string]func(queue int) upgrade{GWS: upgradeGWS, Coder: upgradeCoder}

// server is a running gateway.
type server struct {
	listener net.Listener
	http     *http.Server
	nc       *nats.Conn
	upgrade  upgrade
	verifier *verifier // nil lets everybody in

	mu      sync.Mutex
	sockets map[socket]struct{}
	early   map[socket]struct{} // that have ended before they were in sockets
}

func start(cfg Config) (*server, error) {
	library := libraries[cfg.Library]
	if library == nil {
		return nil, fmt.Errorf("%s: unknown library", cfg.Library)
	}
	s := &server{upgrade: library(cfg.Queue), sockets: map[socket]struct{}{}, early: map[socket]struct{}{}}
	var err error
	if cfg.Issuer != "" {
		if s.verifier, err = newVerifier(cfg.Issuer, cfg.Audience); err != nil {
			return nil, err
		}
	}
	if err := s.subscribe(cfg); err != nil {
		s.close()
		return nil, err
	}
	// Without probes of the kernel, as the edge.
	if s.listener, err = (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), "tcp", "127.0.0.1:0"); err != nil {
		s.close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	s.http = &http.Server{Handler: s}
	go func() { _ = s.http.Serve(s.listener) }() // ends with close
	return s, nil
}

func (s *server) url() string { return "ws://" + s.listener.Addr().String() + "/" }

// subscribe takes the application's events from NATS. One application has one stream here.
func (s *server) subscribe(cfg Config) (err error) {
	if s.nc, err = nats.Connect(cfg.NATS, nats.Name("canopy-bench gateway")); err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	from := subject.Events(0, cfg.Application)
	if _, err := s.nc.Subscribe(from, s.broadcast); err != nil {
		return fmt.Errorf("subscribe to %s: %w", from, err)
	}
	if err := s.nc.Flush(); err != nil {
		return fmt.Errorf("subscribe to %s: %w", from, err)
	}
	return nil
}

// broadcast queues one event for every socket, with the same bytes as an edge sends.
func (s *server) broadcast(m *nats.Msg) {
	sequence, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return // not an event; if it was, clients will miss it
	}
	all := &message{event.AppendCursor(nil, m.Data, event.Cursor{Sequence: sequence})}
	s.mu.Lock()
	defer s.mu.Unlock()
	for socket := range s.sockets {
		if !socket.push(all) {
			go socket.cut() // its end calls left, which needs mu
		}
	}
}

// ServeHTTP lets a client in.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.verifier != nil {
		if err := s.verifier.verify(r); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
	}
	socket, err := s.upgrade(w, r, s.left)
	if err != nil {
		return // the library has answered
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, gone := s.early[socket]; gone {
		delete(s.early, socket)
		return
	}
	s.sockets[socket] = struct{}{}
}

func (s *server) left(socket socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.sockets[socket]; !known {
		s.early[socket] = struct{}{}
		return
	}
	delete(s.sockets, socket)
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sockets)
}

func (s *server) close() {
	if s == nil {
		return
	}
	if s.nc != nil {
		s.nc.Close()
	}
	if s.http != nil {
		if err := s.http.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return // the process ends anyway
		}
	}
}
