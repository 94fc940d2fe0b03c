package obs

import (
	"container/list"
	"net"
	"net/http"
	"sync"
)

// connections bounds those of a server: of more than most, the one goes in which nothing
// has begun or ended for longest. So whoever opens very many keeps no probe from its
// answer, and no descriptor from the daemon.
type connections struct {
	most int

	mu    sync.Mutex
	order *list.List // of net.Conn; what has been quiet for longest comes first
	at    map[net.Conn]*list.Element
}

func newConnections(most int) *connections {
	return &connections{most: most, order: list.New(), at: make(map[net.Conn]*list.Element)}
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
	element, known := c.at[conn]
	switch {
	case state == http.StateNew:
		c.at[conn] = c.order.PushBack(conn)
	case !known: // it had to go
	case state == http.StateClosed || state == http.StateHijacked:
		c.order.Remove(element)
		delete(c.at, conn)
	default:
		c.order.MoveToBack(element)
	}
	if c.order.Len() <= c.most {
		return nil
	}
	quiet, _ := c.order.Remove(c.order.Front()).(net.Conn)
	delete(c.at, quiet)
	return quiet
}
