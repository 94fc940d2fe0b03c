package ws

import (
	"encoding/binary"
	"math"
	"unicode/utf8"
)

// reader takes a client's bytes apart into frames and messages, in whatever pieces they
// come. Between messages it holds no memory. What it holds of an unfinished message
// grows with the bytes received, never with the length announced.
//
// A reader belongs to one goroutine at a time. It changes the bytes given to it.
type reader struct {
	part   *partial
	op     Opcode // of the latest header, if begun
	begun  bool   // a header was read since takeBegun
	second uint16 // of the engine's clock, its low bits
	frames uint16 // that over counted in it

	inflates bool  // compressed messages may come
	weight   uint8 // of the latest compressed message, since takeWeight
}

// MaxFrames is the largest Config.MaxFrames.
const MaxFrames = 1<<16 - 2

// partial is what has come of an unfinished frame or message.
type partial struct {
	head    [maxHeader]byte // the bytes of a header that is still incomplete
	headLen uint8
	inFrame bool   // the header of frame is complete, its payload is not
	message Opcode // OpText or OpBinary while a message is unfinished, else 0
	frame   header
	left    int    // bytes of frame's payload still to come
	checked int    // bytes of data known to be whole UTF-8 characters
	packed  bool   // the unfinished message is compressed
	data    []byte // unmasked payload of the unfinished message
	control []byte // unmasked payload of the unfinished control frame
	below   int    // what is no part of a message yet: the bytes of unfinished TLS records

	pending // the engine's
}

// maxHeader is the longest header of a masked frame, in bytes.
const maxHeader = 14

// header is the head of a client's frame.
type header struct {
	op     Opcode
	fin    bool
	packed bool   // it begins a compressed message
	mask   uint32 // as it lies on the wire, read little endian
	length int    // payload, bytes
}

// violation is a breach of the protocol: what the connection must be closed with.
type violation struct {
	code   uint16
	reason string
}

var (
	reservedBits    = &violation{CloseProtocolError, "reserved bits are set"}
	reservedOpcode  = &violation{CloseProtocolError, "reserved opcode"}
	notMasked       = &violation{CloseProtocolError, "frame is not masked"}
	brokenControl   = &violation{CloseProtocolError, "control frame is fragmented"}
	longControl     = &violation{CloseProtocolError, "control frame is longer than 125 bytes"}
	badLength       = &violation{CloseProtocolError, "frame length has its top bit set"}
	nothingToExtend = &violation{CloseProtocolError, "continuation without a message"}
	unfinished      = &violation{CloseProtocolError, "new message inside a fragmented one"}
	shortClose      = &violation{CloseProtocolError, "close frame of one byte"}
	badCloseCode    = &violation{CloseProtocolError, "invalid close code"}
	badCloseReason  = &violation{CloseInvalidData, "close reason is not UTF-8"}
	notUTF8         = &violation{CloseInvalidData, "text is not UTF-8"}
	tooBig          = &violation{CloseTooBig, "message is too big"}
	tooMany         = &violation{ClosePolicy, "too many messages"}
)

// step takes one frame, or what there is of it, from the front of data, which is not
// empty, and calls h at most once. It returns what is left of data, and false after the
// peer's close frame or a violation: nothing may be read from this peer any more. max is
// the largest message, in bytes.
func (r *reader) step(data []byte, max int, h Handler) (rest []byte, open bool) {
	if r.part == nil || !r.part.inFrame {
		frame, rest, v := r.header(data)
		if v == nil && rest == nil {
			return nil, true
		}
		if v == nil {
			v = r.admit(frame, max)
		}
		if v != nil {
			return nil, r.refuse(v, h)
		}
		r.op, r.begun = frame.op, true
		data = rest
		if frame.length <= len(data) && (frame.op.control() || r.part == nil && frame.fin) {
			payload := data[:frame.length:frame.length]
			unmask(payload, frame.mask)
			if frame.packed {
				return data[frame.length:], r.unpack(frame.op, payload, max, h)
			}
			return data[frame.length:], r.deliver(frame.op, payload, h)
		}
		r.begin(frame)
	}
	return r.payload(data, max, h)
}

// inside says whether what came so far ends in the middle of a frame.
func (r *reader) inside() bool { return r.part != nil && (r.part.inFrame || r.part.headLen > 0) }

// takeBegun says whether the header of a frame was read since it was last called, and of
// which kind the latest was.
func (r *reader) takeBegun() (op Opcode, begun bool) {
	begun, r.begun = r.begun, false
	return r.op, begun
}

// takeWeight is how many frames more than its own the compressed messages count that were
// read since it was last called.
func (r *reader) takeWeight() (n int) {
	n, r.weight = int(r.weight), 0
	return n
}

// over counts n frames at second now, or half of what may come if they are more, and says
// whether that makes more than most.
func (r *reader) over(now uint32, n, most int) bool {
	if r.second != uint16(now) {
		r.second, r.frames = uint16(now), 0
	}
	sum := int(r.frames) + min(n, (most+1)/2)
	r.frames = uint16(min(sum, MaxFrames+1))
	return sum > most
}

// header reads a frame's header, of which a part may have come earlier. A nil rest
// without a violation means that it is still incomplete.
func (r *reader) header(data []byte) (frame header, rest []byte, v *violation) {
	if r.part == nil || r.part.headLen == 0 {
		frame, n, v := parseHeader(data, r.inflates)
		if v != nil || n > 0 {
			return frame, data[n:], v
		}
		r.hold().headLen = uint8(copy(r.part.head[:], data))
		return frame, nil, nil
	}
	p := r.part
	had := int(p.headLen)
	have := had + copy(p.head[had:], data)
	frame, n, v := parseHeader(p.head[:have], r.inflates)
	if v != nil || n > 0 {
		p.headLen = 0
		r.release()
		return frame, data[max(n-had, 0):], v
	}
	p.headLen = uint8(have)
	return frame, nil, nil
}

// parseHeader reads the header at the front of b and returns its length in bytes, or 0 if
// b holds only a part of it. With inflates it may begin a compressed message.
func parseHeader(b []byte, inflates bool) (h header, size int, v *violation) {
	if len(b) < 2 {
		return h, 0, nil
	}
	h.op, h.fin = Opcode(b[0]&0x0F), b[0]&0x80 != 0
	h.packed = inflates && b[0]&compressed != 0 && (h.op == OpText || h.op == OpBinary)
	h.length = int(b[1] & 0x7F)
	switch {
	case b[0]&0x70 != 0 && !(h.packed && b[0]&0x70 == compressed):
		return h, 0, reservedBits
	case !h.op.known():
		return h, 0, reservedOpcode
	case b[1]&0x80 == 0:
		return h, 0, notMasked
	case h.op.control() && !h.fin:
		return h, 0, brokenControl
	case h.op.control() && h.length > maxControl:
		return h, 0, longControl
	}
	at := 2
	switch h.length {
	case 126:
		at = 4
	case 127:
		at = 10
	}
	if len(b) < at+4 {
		return h, 0, nil
	}
	switch at {
	case 4:
		h.length = int(binary.BigEndian.Uint16(b[2:]))
	case 10:
		n := binary.BigEndian.Uint64(b[2:])
		if n > math.MaxInt64 {
			return h, 0, badLength
		}
		h.length = int(min(n, math.MaxInt/2))
	}
	h.mask = binary.LittleEndian.Uint32(b[at:])
	return h, at + 4, nil
}

// admit checks a frame against the message that is under way.
func (r *reader) admit(frame header, max int) *violation {
	if frame.op.control() {
		return nil
	}
	have, under, packed := 0, false, frame.packed
	if r.part != nil {
		have, under = len(r.part.data), r.part.message != 0
		packed = packed || r.part.packed
	}
	if packed {
		max = maxDeflated(max)
	}
	switch {
	case frame.op == OpContinuation && !under:
		return nothingToExtend
	case frame.op != OpContinuation && under:
		return unfinished
	case have+frame.length > max:
		return tooBig
	}
	return nil
}

// begin notes a frame whose payload is collected.
func (r *reader) begin(frame header) {
	p := r.hold()
	p.inFrame, p.frame, p.left = true, frame, frame.length
	if frame.op == OpText || frame.op == OpBinary {
		p.message, p.packed = frame.op, frame.packed
	}
}

// payload collects what has come of the current frame's payload.
func (r *reader) payload(data []byte, max int, h Handler) (rest []byte, open bool) {
	p := r.part
	piece := data[:min(len(data), p.left)]
	p.frame.mask = unmask(piece, p.frame.mask)
	p.left -= len(piece)
	rest = data[len(piece):]
	if p.frame.op.control() {
		p.control = append(p.control, piece...)
		if p.left > 0 {
			return rest, true
		}
		payload := p.control
		p.control, p.inFrame = nil, false
		r.release()
		return rest, r.deliver(p.frame.op, payload, h)
	}
	p.data = append(p.data, piece...)
	end := p.left == 0 && p.frame.fin
	if p.message == OpText && !p.packed && !p.check(end) {
		return nil, r.refuse(notUTF8, h)
	}
	p.inFrame = p.left > 0
	if end {
		// The reader lets go of the message before the owner sees it, so that a
		// callback that panics leaves a reader in order.
		op, payload, packed := p.message, p.data, p.packed
		p.message, p.data, p.checked, p.packed = 0, nil, 0, false
		r.release()
		if packed {
			return rest, r.unpack(op, payload, max, h)
		}
		h.OnMessage(op == OpText, payload)
	}
	return rest, true
}

// check tells whether the text so far is UTF-8; unless it ends here its last character
// may be incomplete, as long as it can still become valid.
func (p *partial) check(end bool) bool {
	fresh := p.data[p.checked:]
	n := len(fresh)
	if !end {
		n = wholeRunes(fresh)
	}
	p.checked += n
	return utf8.Valid(fresh[:n])
}

// wholeRunes returns the length of b without the incomplete character at its end, if
// there is one.
func wholeRunes(b []byte) int {
	for i := len(b) - 1; i >= 0 && i >= len(b)-3; i-- {
		if utf8.RuneStart(b[i]) {
			if utf8.FullRune(b[i:]) {
				break
			}
			return i
		}
	}
	return len(b)
}

// deliver hands a whole frame to h; data frames are whole messages.
func (r *reader) deliver(op Opcode, payload []byte, h Handler) (open bool) {
	switch op {
	case OpPing:
		h.OnPing(payload)
	case OpPong:
		h.OnPong(payload)
	case OpClose:
		return r.close(payload, h)
	default:
		if op == OpText && !utf8.Valid(payload) {
			return r.refuse(notUTF8, h)
		}
		h.OnMessage(op == OpText, payload)
	}
	return true
}

// unpack inflates a whole message and hands it to h.
func (r *reader) unpack(op Opcode, payload []byte, max int, h Handler) (open bool) {
	r.weight = uint8(min(int(r.weight)+len(payload)/inflateUnit, math.MaxUint8))
	i := inflaters.Get().(*inflater)
	defer i.release() // also if h panics
	message, v := i.inflate(payload, max)
	if v != nil {
		return r.refuse(v, h)
	}
	return r.deliver(op, message, h)
}

// close hands a close frame to h. It returns false, always.
func (r *reader) close(payload []byte, h Handler) (open bool) {
	r.part = nil
	if len(payload) == 0 {
		h.OnClose(CloseNoStatus, "")
		return false
	}
	if len(payload) == 1 {
		return r.refuse(shortClose, h)
	}
	code := binary.BigEndian.Uint16(payload)
	if !mayReceive(code) {
		return r.refuse(badCloseCode, h)
	}
	if !utf8.Valid(payload[2:]) {
		return r.refuse(badCloseReason, h)
	}
	h.OnClose(code, string(payload[2:]))
	return false
}

// refuse lets go of everything and reports a violation. It returns false, always.
func (r *reader) refuse(v *violation, h Handler) (open bool) {
	r.part = nil
	h.OnViolation(v.code, v.reason)
	return false
}

// hold returns the state of the unfinished, which it makes if there is none.
func (r *reader) hold() *partial {
	if r.part == nil {
		r.part = &partial{}
	}
	return r.part
}

// release lets go of the state if nothing is unfinished.
func (r *reader) release() {
	if p := r.part; p.headLen == 0 && !p.inFrame && p.message == 0 {
		r.part = nil
	}
}
