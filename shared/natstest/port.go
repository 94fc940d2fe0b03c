package natstest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
)

// Ports that servers of tests listen at. Linux gives none of these to a connection, or to who
// listens at port 0, unless it was told to: at most one of these is taken by chance, and by
// another test.
const (
	firstPort = 10000
	endPort   = 32768
)

var ports atomic.Uint32

func init() { ports.Store(rand.Uint32()) } // tests of other packages run in other processes

// FreePort gives a port of 127.0.0.1 at which nobody listens, to a server that has to know it
// before it listens, or that listens at it again. It gives another one each time.
func FreePort(t testing.TB) int {
	t.Helper()
	for range endPort - firstPort {
		port := firstPort + int(ports.Add(1)%(endPort-firstPort))
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = listener.Close()
			return port
		}
	}
	t.Fatalf("no port from %d to %d is free", firstPort, endPort-1)
	return 0
}
