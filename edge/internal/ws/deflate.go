package ws

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/flate"
)

// deflateLevel is flate's level: of a typical event it leaves less than the two before it at
// the same price, and those behind it leave hardly less. BenchmarkDeflate compares them.
const deflateLevel = 3

// syncFlush is the end of what flate's Flush writes: the lengths of an empty stored block,
// behind its header of three bits and what fills their byte.
const syncFlush = 4

// keepBuffer is the size up to which a buffer of messages, compressed or inflated, is used
// again, in bytes.
const keepBuffer = 64 << 10

// maxPlain bounds the bytes that stand unchanged in a compressed frame.
const maxPlain = 64

// Deflater makes compressed frames, each of which is for any number of sockets: it refers to
// no other frame (RFC 7692, server_no_context_takeover). Any goroutine may use it. A nil one
// is off.
type Deflater struct {
	least   int
	writers sync.Pool // of *deflating, each above 1 MB: no more than cores, and gone when none is used

	frames, before, after atomic.Uint64
}

// deflating is a compressor in use.
type deflating struct {
	flate *flate.Writer
	out   []byte
}

// Write appends b to what the compressor has given.
func (d *deflating) Write(b []byte) (int, error) {
	d.out = append(d.out, b...)
	return len(b), nil
}

// NewDeflater makes a Deflater that leaves payloads of less than least bytes as they are. It
// is nil, off, if least is 0.
func NewDeflater(least int) *Deflater {
	if least == 0 {
		return nil
	}
	d := &Deflater{least: least}
	d.writers.New = func() any {
		w := &deflating{}
		w.flate, _ = flate.NewWriter(w, deflateLevel) // fails only if there is no such level
		return w
	}
	return d
}

// Counts returns the frames that were compressed, and the bytes of their payloads before and
// after.
func (d *Deflater) Counts() (frames, before, after uint64) {
	if d == nil {
		return 0, 0, 0
	}
	return d.frames.Load(), d.before.Load(), d.after.Load()
}

// AppendFrame appends to b one whole, unmasked data frame, and returns the extended slice:
// compressed, unless payload is small or gets no shorter. The last plain bytes of payload, 64
// at most, stand in it as they are, and one zero behind them if it is compressed, so that
// they can be read where the frame ends.
func (d *Deflater) AppendFrame(b []byte, op Opcode, payload []byte, plain int) []byte {
	if d == nil || len(payload) < d.least || plain > min(maxPlain, len(payload)) {
		return AppendFrame(b, op, payload)
	}
	w := d.writers.Get().(*deflating)
	defer d.release(w)
	w.flate.Reset(w)
	// Errors can only be those of Write, which has none.
	_, _ = w.flate.Write(payload[:len(payload)-plain])
	_ = w.flate.Flush()
	w.end(payload[len(payload)-plain:])
	d.frames.Add(1)
	d.before.Add(uint64(len(payload)))
	if len(w.out) >= len(payload) {
		d.after.Add(uint64(len(payload)))
		return AppendFrame(b, op, payload)
	}
	d.after.Add(uint64(len(w.out)))
	at := len(b)
	b = AppendHeader(b, op, len(w.out))
	b[at] |= compressed
	return append(b, w.out...)
}

// release gives w back.
func (d *Deflater) release(w *deflating) {
	w.out = w.out[:0]
	if cap(w.out) > keepBuffer {
		w.out = nil
	}
	d.writers.Put(w)
}

// end closes the message behind what was flushed. Its last bytes, plain, go into the stored
// block with which a flush ends: that is empty, and now holds them. The message itself ends
// within the header of one more, whose lengths the receiver knows (RFC 7692, section 7.2.1).
func (d *deflating) end(plain []byte) {
	at := len(d.out) - syncFlush
	if len(plain) == 0 {
		d.out = d.out[:at]
		return
	}
	binary.LittleEndian.PutUint16(d.out[at:], uint16(len(plain)))
	binary.LittleEndian.PutUint16(d.out[at+2:], ^uint16(len(plain)))
	d.out = append(append(d.out, plain...), 0)
}
