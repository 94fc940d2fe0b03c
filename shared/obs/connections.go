package obs

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
)

// connections bounds those of a server: of more than most, the one goes in which nothing
// has begun or ended for longest, among those whose request no handler has yet. So whoever
// opens very many keeps no probe from its answer, no scrape or profile from its end, and no
// descriptor from the daemon. If handlers have more than half of all, the request goes that
// has taken longest: nor does whoever sends very many of them.
type connections struct {
	most int

	mu      sync.Mutex
	waiting *list.List // of net.Conn; what has been quiet for longest comes first
	served  *list.List // those whose request a handler has, the longest first
	at      map[net.Conn]place
}

// place is where a connection stands.
type place struct {
	in *list.List
	*list.Element
}

func newConnections(most int) *connections {
	return &connections{most: most, waiting: list.New(), served: list.New(), at: make(map[net.Conn]place)}
}

// connKey is where the context of a request has its connection.
type connKey struct{}

// context is http.Server's ConnContext.
func (c *connections) context(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// handler notes what h has to do.
func (c *connections) handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok {
			c.serve(conn)
		}
		h.ServeHTTP(w, r)
	})
}

// serve notes that a handler has the request of conn, until that is idle or closed.
func (c *connections) serve(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.at[conn]; known {
		c.move(conn, c.served)
	}
}

// state is http.Server's ConnState.
func (c *connections) state(conn net.Conn, state http.ConnState) {
	if quiet := c.note(conn, state); quiet != nil {
		_ = quiet.Close() // its own goroutine sees to the rest
	}
}

// note gives the connection that has to go, nil for none.
func (c *connections) note(conn net.Conn, state http.ConnState) net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, known := c.at[conn]
	switch {
	case !known && state != http.StateNew: // it had to go
	case state == http.StateClosed || state == http.StateHijacked:
		c.remove(conn)
	default:
		c.move(conn, c.waiting)
	}
	if len(c.at) <= c.most {
		return nil
	}
	from := c.waiting
	if c.served.Len() > c.most/2 {
		from = c.served
	}
	quiet, _ := from.Front().Value.(net.Conn)
	c.remove(quiet)
	return quiet
}

// move puts conn at the end of a list.
func (c *connections) move(conn net.Conn, to *list.List) {
	c.remove(conn)
	c.at[conn] = place{to, to.PushBack(conn)}
}

func (c *connections) remove(conn net.Conn) {
	if at, known := c.at[conn]; known {
		at.in.Remove(at.Element)
		delete(c.at, conn)
	}
}
