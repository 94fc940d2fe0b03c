package ws

import "encoding/binary"

const (
	recordHeader = 5 // bytes: type, version, length

	// recordOverhead is what a record adds to what it carries, at most: TLS 1.2 with GCM.
	recordOverhead = recordHeader + 8 + 16

	// fewSilent is how much may come in whole records without anything to read for the owner
	// before that counts as unfinished: more than a change of keys takes.
	fewSilent = 1 << 10

	// fewToUpgrade is how many records a client may send before its connection is a socket:
	// enough for the handshakes, and a request's headers in small pieces.
	fewToUpgrade = 4 << 10

	// A record that gives less than a crumb and ends in the middle of a frame costs as much as
	// a frame. So fewCrumbs of them count as one, since a client may write the parts of a
	// frame one by one.
	crumb     = 128 // bytes
	fewCrumbs = 8

	// replyBytes is what TLS answers to a KeyUpdate, and mostReplies how much of that may wait
	// for a client that does not read.
	replyBytes  = 32
	mostReplies = 4 << 10
)

// records follows where TLS records begin and end in what a peer sends. crypto/tls holds
// one until it is whole, 16 KiB of room for its first five bytes, and a message of a
// handshake until its last record, 64 KiB at most: neither is a message of ours yet.
//
// It belongs to one goroutine at a time.
type records struct {
	head   [recordHeader]byte
	had    uint8  // bytes of head
	begun  bool   // head is complete, the record is not
	length int    // of the record's payload, bytes
	left   int    // of these still to come
	silent int    // bytes of whole records since something was read
	whole  uint32 // number of whole records
}

// take follows what came.
func (r *records) take(b []byte) {
	for len(b) > 0 {
		if !r.begun {
			n := copy(r.head[r.had:], b)
			b, r.had = b[n:], r.had+uint8(n)
			if r.had < recordHeader {
				return
			}
			r.begun, r.had = true, 0
			r.length = int(binary.BigEndian.Uint16(r.head[3:]))
			r.left = r.length
		}
		n := min(r.left, len(b))
		b, r.left = b[n:], r.left-n
		if r.left > 0 {
			return
		}
		r.begun = false
		r.silent += r.length
		r.whole++
	}
}

// next is how many bytes are missing of the header or the record that is under way.
func (r *records) next() int {
	if r.begun {
		return r.left
	}
	return recordHeader - int(r.had)
}

// heard says that something was read for the owner: no handshake is under way.
func (r *records) heard() { r.silent = 0 }

// unfinished is what crypto/tls holds of what is not finished, in bytes.
func (r *records) unfinished() int {
	n := 0
	if r.begun || r.had > 0 {
		n = recordHeader
	}
	if r.begun {
		n += r.length
	}
	if r.silent > fewSilent {
		n += r.silent
	}
	return n
}
