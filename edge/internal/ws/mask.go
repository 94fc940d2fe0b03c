package ws

import (
	"encoding/binary"
	"math/bits"
)

// unmask takes the mask (RFC 6455, section 5.3, read little endian) off b in place, and
// returns the mask turned so that the next bytes of the same frame go on with it.
func unmask(b []byte, mask uint32) uint32 {
	wide := uint64(mask)<<32 | uint64(mask)
	for len(b) >= 32 {
		for i := 0; i < 32; i += 8 {
			word := b[i : i+8 : i+8]
			binary.LittleEndian.PutUint64(word, binary.LittleEndian.Uint64(word)^wide)
		}
		b = b[32:]
	}
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^wide)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= byte(mask)
		mask = bits.RotateLeft32(mask, -8)
	}
	return mask
}
