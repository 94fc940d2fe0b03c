//go:build race

package ws

import "golang.org/x/sys/unix"

// writeKeepingP tells the race detector which bytes are read, and does not keep the P.
func writeKeepingP(fd int, b []byte) (int, error) { return unix.Write(fd, b) }
