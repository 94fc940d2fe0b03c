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
		size, header := uint64(b[1]), uint64(2)
		switch size {
		case 126:
			size, header = uint64(binary.BigEndian.Uint16(b[2:])), 4
		case 127:
			size, header = binary.BigEndian.Uint64(b[2:]), 10
		}
		b = b[header+size:]
	}
	return n
}
