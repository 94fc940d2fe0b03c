package group

import "sync/atomic"

// room bounds the bytes of events that groups hold.
type room struct {
	limit  int64
	within *room // of which it is a part, nil for the whole
	bytes  atomic.Int64
}

func (r *room) take(n int) bool {
	if r.bytes.Add(int64(n)) > r.limit || r.within != nil && !r.within.take(n) {
		r.bytes.Add(-int64(n))
		return false
	}
	return true
}

func (r *room) give(n int) {
	r.bytes.Add(-int64(n))
	if r.within != nil {
		r.within.give(n)
	}
}
