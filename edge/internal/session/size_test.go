package session

import (
	"testing"
	"unsafe"
)

func TestSessionsStaySmall(t *testing.T) {
	// The allocator's next sizes are 320 and 352.
	if n := unsafe.Sizeof(Session{}); n > 288 {
		t.Errorf("a session has %d bytes", n)
	}
}
