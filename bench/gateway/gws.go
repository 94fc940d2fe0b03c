//go:build linux

package gateway

import (
	"net/http"
	"sync/atomic"

	"github.com/lxzan/gws"
)

// readBuffer is small, in favour of the peer: clients of this bench send next to nothing.
const readBuffer = 512

// gwsSocket has one goroutine at rest, which reads. Its queue is the library's own, which
// has a goroutine while something waits; waiting bounds it.
type gwsSocket struct {
	conn    *gws.Conn
	queue   int32
	waiting atomic.Int32
	left    func(socket)
}

func upgradeGWS(queue int) upgrade {
	const session = "socket"
	upgrader := gws.NewUpgrader(sessions(session), &gws.ServerOption{ReadBufferSize: readBuffer})
	return func(w http.ResponseWriter, r *http.Request, left func(socket)) (socket, error) {
		conn, err := upgrader.Upgrade(w, r)
		if err != nil {
			return nil, err
		}
		s := &gwsSocket{conn: conn, queue: int32(queue), left: left}
		conn.Session().Store(session, s)
		go conn.ReadLoop()
		return s, nil
	}
}

// sessions handles the events of all sockets; the string is where each one is stored.
type sessions string

func (sessions) OnOpen(*gws.Conn) {}

func (key sessions) OnClose(conn *gws.Conn, _ error) {
	if s, ok := conn.Session().Load(string(key)); ok {
		s.(*gwsSocket).left(s.(*gwsSocket))
	}
}

func (sessions) OnPing(conn *gws.Conn, payload []byte) { _ = conn.WritePong(payload) } // its error ends the connection
func (sessions) OnPong(*gws.Conn, []byte)              {}
func (sessions) OnMessage(_ *gws.Conn, m *gws.Message) { _ = m.Close() } // gives a buffer back

func (s *gwsSocket) push(m *message) bool {
	if s.waiting.Add(1) > s.queue {
		return false
	}
	s.conn.Async(func() {
		s.waiting.Add(-1)
		_ = s.conn.WriteMessage(gws.OpcodeText, m.payload) // an error ends the connection
	})
	return true
}

func (s *gwsSocket) cut() { _ = s.conn.NetConn().Close() } // it may have ended already
