package session

import "sync/atomic"

// pen keeps control frames from following the close frame, though different goroutines
// write them and none may wait for another. It counts those that write a control frame;
// after last nobody begins, and whoever ends last writes the close frame. Any goroutine may
// call it.
type pen struct{ state atomic.Uint32 }

// closed is set by last; below it stands the number of writers.
const closed = 1 << 31

// take begins a control frame. It is false if the close frame comes next, or came.
func (p *pen) take() bool {
	for {
		n := p.state.Load()
		if n&closed != 0 {
			return false
		}
		if p.state.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// put ends what take began. It is true once, if now the close frame is to be written.
func (p *pen) put() bool { return p.state.Add(^uint32(0)) == closed }

// last says that the close frame comes next. It is true if it is to be written at once,
// otherwise put will say so. It is called once.
func (p *pen) last() bool { return p.state.Or(closed) == 0 }
