package ws

import (
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
)

// inflateUnit is how many bytes of compressed messages count as one frame against
// Config.MaxFrames: what is built to be slow, tables without data, takes about 0.2 ms for
// each KiB.
const inflateUnit = 1 << 10

// messageEnd follows each compressed message: the end of its last block, which the sender
// leaves out (RFC 7692, section 7.2.2), and a block that says that no more comes.
const messageEnd = "\x00\x00\xff\xff" + "\x01\x00\x00\xff\xff"

var notDeflate = &violation{CloseInvalidData, "message cannot be inflated"}

// maxDeflated bounds the compressed form of a message of at most max bytes: what cannot be
// compressed grows, by an eighth in the worst coding there is.
func maxDeflated(max int) int { return max + max/8 + 64 }

// inflater makes messages of their compressed form, which refers to no other message. One
// takes about 50 KB, so there are no more than messages being read at the same time.
type inflater struct {
	flate io.ReadCloser
	input deflated
	out   []byte
}

var inflaters = sync.Pool{New: func() any {
	i := &inflater{}
	i.flate = flate.NewReader(&i.input)
	return i
}}

// inflate returns the message whose compressed form is payload. It is valid until release,
// which is called in any case. It reads no more than max bytes, and one to know that there
// are more.
func (i *inflater) inflate(payload []byte, max int) ([]byte, *violation) {
	i.input = deflated{payload: payload, end: messageEnd}
	if err := i.flate.(flate.Resetter).Reset(&i.input, nil); err != nil {
		return nil, notDeflate
	}
	for b := i.out[:0]; ; {
		if len(b) == cap(b) {
			grown := make([]byte, len(b), min(max+1, 2*cap(b)+4<<10))
			copy(grown, b)
			b = grown
		}
		n, err := i.flate.Read(b[len(b):min(cap(b), max+1)])
		b = b[:len(b)+n]
		i.out = b
		switch {
		case len(b) > max:
			return nil, tooBig
		case err == io.EOF && i.input.ended():
			return b, nil
		case err != nil:
			// It is broken, or ends before its message does.
			return nil, notDeflate
		}
	}
}

// release gives i back.
func (i *inflater) release() {
	i.input = deflated{}
	if cap(i.out) > keepBuffer {
		i.out = nil
	}
	inflaters.Put(i)
}

// deflated is the compressed form of a message with messageEnd behind it. It is read byte by
// byte, so that nothing is read ahead.
type deflated struct {
	payload []byte
	end     string
}

// ended says whether the last block was read when the message was at its end: that of
// messageEnd, or one of the client's own, behind which it has to put a zero (RFC 7692,
// section 7.2.3.4).
func (d *deflated) ended() bool {
	if len(d.end) == len(messageEnd) {
		return len(d.payload) == 0 || string(d.payload) == "\x00"
	}
	return len(d.end) == 0
}

// ReadByte gives the next byte.
func (d *deflated) ReadByte() (byte, error) {
	if len(d.payload) > 0 {
		c := d.payload[0]
		d.payload = d.payload[1:]
		return c, nil
	}
	if len(d.end) > 0 {
		c := d.end[0]
		d.end = d.end[1:]
		return c, nil
	}
	return 0, io.ErrUnexpectedEOF
}

// Read gives what is next, of the payload or behind it.
func (d *deflated) Read(b []byte) (int, error) {
	if len(d.payload) > 0 {
		n := copy(b, d.payload)
		d.payload = d.payload[n:]
		return n, nil
	}
	if len(d.end) > 0 {
		n := copy(b, d.end)
		d.end = d.end[n:]
		return n, nil
	}
	return 0, io.ErrUnexpectedEOF
}
