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
	closed bool
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
		if !r.add(client, server) {
			_ = client.Close() // so is the relay
			_ = server.Close()
			return
		}
		r.wg.Go(func() { r.pass(client, server) })
		r.wg.Go(func() { r.pass(server, client) })
	}
}

// add counts a connection, unless the relay was closed meanwhile.
func (r *relay) add(client, server net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.opened++
	r.open[client], r.open[server] = true, true
	return true
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
	cut := len(r.open) / 2
	for conn := range r.open {
		_ = conn.Close()
	}
	clear(r.open)
	return cut
}

// connections is how many there have been.
func (r *relay) connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.opened
}

func (r *relay) close() {
	_ = r.listener.Close()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cut()
	r.wg.Wait()
}
