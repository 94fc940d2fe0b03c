//go:build linux

package gateway

import (
	"context"
	"net/http"

	"github.com/coder/websocket"
)

// coderSocket has two goroutines, one that reads, which the library starts, and one that
// writes.
type coderSocket struct {
	conn  *websocket.Conn
	queue chan *message
}

func upgradeCoder(queue int) upgrade {
	return func(w http.ResponseWriter, r *http.Request, left func(socket)) (socket, error) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return nil, err
		}
		s := &coderSocket{conn: conn, queue: make(chan *message, queue)}
		go s.write(conn.CloseRead(context.Background()), left)
		return s, nil
	}
}

// write writes what is queued until the connection ends. It ends apart from the handler,
// so that the memory of the request is free.
func (s *coderSocket) write(open context.Context, left func(socket)) {
	defer left(s)
	for {
		select {
		case <-open.Done():
			return
		case m := <-s.queue:
			if s.conn.Write(open, websocket.MessageText, m.payload) != nil {
				return
			}
		}
	}
}

func (s *coderSocket) push(m *message) bool {
	select {
	case s.queue <- m:
		return true
	default:
		return false
	}
}

func (s *coderSocket) cut() { _ = s.conn.CloseNow() } // it may have ended already
