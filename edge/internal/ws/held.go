package ws

import (
	"slices"
	"sync/atomic"
)

// heldAllocator is nbio's memory for bytes that the kernel did not take. It counts them,
// and leaves reuse to the garbage collector: such bytes are rare, and pools of them would
// stay large for ever after one bad minute.
type heldAllocator struct{ bytes atomic.Int64 }

// Malloc returns a buffer of size bytes.
func (a *heldAllocator) Malloc(size int) *[]byte {
	// As much as Go's allocator gives anyway, so that not every small write behind it moves
	// all of it.
	b := slices.Grow([]byte(nil), size)[:size]
	a.bytes.Add(int64(cap(b)))
	return &b
}

// Realloc returns a buffer of size bytes that begins with those of b.
func (a *heldAllocator) Realloc(b *[]byte, size int) *[]byte {
	if size <= cap(*b) {
		*b = (*b)[:size]
		return b
	}
	grown := a.Malloc(size)
	copy(*grown, *b)
	a.Free(b)
	return grown
}

// Append appends more to b.
func (a *heldAllocator) Append(b *[]byte, more ...byte) *[]byte {
	before := cap(*b)
	*b = append(*b, more...)
	a.bytes.Add(int64(cap(*b) - before))
	return b
}

// AppendString appends more to b.
func (a *heldAllocator) AppendString(b *[]byte, more string) *[]byte {
	before := cap(*b)
	*b = append(*b, more...)
	a.bytes.Add(int64(cap(*b) - before))
	return b
}

// Free gives b up.
func (a *heldAllocator) Free(b *[]byte) { a.bytes.Add(-int64(cap(*b))) }

// Held returns the bytes of memory that wait for sockets whose kernel buffers are full.
func (e *Engine) Held() int64 { return e.held.bytes.Load() }
