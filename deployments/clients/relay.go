package main

import (
	"fmt"
	"io"
	"net"
	"sync"
)

// relay stands between a client and the edge, counts connections and can cut them.
type relay struct {
	listener net.Listener
	edge     string

	wg     sync.WaitGroup
	mu     sync.Mutex
	opened int
	open   map[net.Conn]bool
}

func newRelay(edge string) (*relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open relay: %w", err)
	}
	r := &relay{listener: listener, edge: edge, open: make(map[net.Conn]bool)}
	r.wg.Go(r.accept)
	return r, nil
}

func (r *relay) addr() string { return r.listener.Addr().String() }

func (r *relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return // it is closed
		}
		server, err := net.Dial("tcp", r.edge)
		if err != nil {
			_ = client.Close() // the client sees it
			continue
		}
		r.mu.Lock()
		r.opened++
		r.open[client], r.open[server] = true, true
		r.mu.Unlock()
		r.wg.Go(func() { r.pass(client, server) })
		r.wg.Go(func() { r.pass(server, client) })
	}
}

// pass moves bytes until one side ends, and then ends the other one, too.
func (r *relay) pass(to, from net.Conn) {
	_, _ = io.Copy(to, from) // an end is an end
	_ = to.Close()
	_ = from.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, to)
	delete(r.open, from)
}

// cut breaks all connections, without a word to either side, and says how many there were.
func (r *relay) cut() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn := range r.open {
		_ = conn.Close()
	}
	return len(r.open) / 2
}

// connections is how many there have been.
func (r *relay) connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.opened
}

func (r *relay) close() {
	_ = r.listener.Close()
	r.cut()
	r.wg.Wait()
}
