package ws

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/lesismal/nbio"
)

// begun is the session of a connection that shows that its poller runs.
type begun chan struct{}

// awaitPollers returns when every poller waits for events. An engine that is stopped
// earlier never ends, since each poller clears the order to stop when it begins; and nbio
// has no sign of that but an event that a poller has handled. So each is given a
// connection whose peer is gone already.
func (e *Engine) awaitPollers() error {
	// nbio chooses a poller by the descriptor's number. Connections that are not needed
	// hold their numbers until the others are found.
	var spare []*nbio.Conn
	defer func() {
		for _, nb := range spare {
			_ = nb.Close()
		}
	}()
	runs := make([]bool, e.nb.NPoller)
	for missing := len(runs); missing > 0; {
		nb, err := orphan()
		if err != nil {
			return err
		}
		poller := nb.Hash() % len(runs)
		if runs[poller] {
			spare = append(spare, nb)
			if len(spare) > 100+10*len(runs) {
				return errors.New("found no descriptor for each poller")
			}
			continue
		}
		ended := make(begun)
		nb.SetSession(ended)
		if _, err := e.nb.AddConn(nb); err != nil {
			return err
		}
		<-ended
		runs[poller] = true
		missing--
	}
	return nil
}

// orphan returns a connection whose other end is closed.
func orphan() (*nbio.Conn, error) {
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	_ = syscall.Close(ends[1])
	file := os.NewFile(uintptr(ends[0]), "pair")
	conn, err := net.FileConn(file)
	_ = file.Close()
	if err != nil {
		return nil, err
	}
	return nbio.NBConn(conn)
}
