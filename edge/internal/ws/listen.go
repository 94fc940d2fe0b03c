package ws

import (
	"context"
	"fmt"
	"net"
	"syscall"
)

// sendBuffer is SO_SNDBUF of every socket, in bytes. Left alone, the kernel holds up to
// 4 MB for one that is not read, and some hundreds of those exhaust TCP's memory for
// everybody on the machine.
const sendBuffer = 64 << 10

// Listen binds the TCP address (host:port) that sockets are opened at. What it accepts
// has a send buffer of 64 KiB, no delay for small writes, and no keep-alive probes: the
// edge's own Pings find dead peers. The backlog is the system's maximum (somaxconn).
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	config := net.ListenConfig{
		KeepAlive: -1,
		Control: func(_, _ string, raw syscall.RawConn) error {
			// Before listen: accepted sockets inherit it with their first segment.
			var failed error
			err := raw.Control(func(fd uintptr) {
				failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, sendBuffer)
			})
			if err != nil {
				return err
			}
			return failed
		},
	}
	// Multipath TCP, Go's default, is a layer between nbio and the socket that no client
	// of ours has asked for.
	config.SetMultipathTCP(false)
	listener, err := config.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return listener, nil
}
