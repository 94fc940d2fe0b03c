package feed

import (
	"encoding/binary"

	"canopy/edge/internal/ws"
	"canopy/shared/event"
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

// payload is that of one unmasked frame.
func payload(frame []byte) []byte {
	switch frame[1] {
	case 126:
		return frame[4:]
	case 127:
		return frame[10:]
	default:
		return frame[2:]
	}
}

// packedTail is how many bytes of an event's JSON stand unchanged at the end of its
// compressed frame: the digits of its sequence that are no leading zeros, and what closes
// the cursor and the event.
func packedTail(sequence uint64) int {
	n := len(`"}`) + 1
	for ; sequence >= 10; sequence /= 10 {
		n++
	}
	return n
}

// lastSequence is that of the last event of a ring's frames. A zero follows it in a
// compressed frame, and before its digits stand the lengths of their block, which end in a
// byte that is no digit.
func lastSequence(frames []byte) (n uint64) {
	if frames[len(frames)-1] != 0 {
		return event.LastSequence(frames)
	}
	digits := frames[:len(frames)-len(`"}`)-1]
	first := len(digits)
	for first > 0 && digits[first-1]-'0' <= 9 {
		first--
	}
	for _, c := range digits[first:] {
		n = 10*n + uint64(c-'0')
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
