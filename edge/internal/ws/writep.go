//go:build !race

package ws

import (
	"syscall"
	"unsafe"
)

// writeKeepingP is write(2) for a non-blocking socket and a b that is not empty. The
// scheduler does not hear of it.
func writeKeepingP(fd int, b []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}
