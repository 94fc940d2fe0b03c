package feed

import (
	"encoding/binary"

	"canopy/edge/internal/ws"
)

// frameLen is the length in bytes of the text frame of a payload of n bytes.
func frameLen(n int) int { return ws.HeaderLen(n) + n }

// countFrames is the number of unmasked frames that b holds end to end.
func countFrames(b []byte) int {
	n := 0
	for ; len(b) > 0; n++ {
		b = b[firstFrame(b):]
	}
	return n
}

// firstFrame is the length in bytes of the unmasked frame with which b begins.
func firstFrame(b []byte) int {
	switch size := uint64(b[1]); size {
	case 126:
		return 4 + int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		return 10 + int(binary.BigEndian.Uint64(b[2:]))
	default:
		return 2 + int(size)
	}
}
