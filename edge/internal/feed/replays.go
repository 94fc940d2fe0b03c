package feed

import (
	"container/list"
	"sync"
	"time"
)

// replays are a feed's sockets that read from the stream what the ring does not hold, and
// join the live feed where the two meet. One goroutine serves them while there are any that
// need not wait for their accounts: it reads a block of events for the one whose reader had
// his turn longest ago, and writes it to all that stand within it, so that sockets which come
// back together share their reads. The block is kept for those that come later. One that
// stalls is left out until it drains.
//
// Any goroutine may call it. Its lock comes last.
type replays struct {
	accounts *accounts
	came     chan struct{} // has room for one: some are ready that the goroutine has not seen

	mu      sync.Mutex
	all     map[*Reader]*replay
	ready   []*replay // those that can take events, oldest first
	running bool
}

// replay is one socket that reads from the stream.
type replay struct {
	reader  *Reader
	account *account

	cold bool // no block that is kept goes on behind its place; its replayer's

	place  *list.Element // among those that wait for the account; guarded by accounts.mu, like what follows
	waited bool          // it has waited before
	left   bool          // it replays no more
}

func (p *replays) add(r *Reader, owner string) {
	x := &replay{reader: r, account: p.accounts.open(owner)}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		p.all = map[*Reader]*replay{}
	}
	p.all[r] = x
}

func (p *replays) remove(r *Reader) {
	p.mu.Lock()
	x := p.all[r]
	delete(p.all, r)
	p.mu.Unlock()
	if x != nil {
		p.accounts.remove(x)
	}
}

// push queues r unless it has left, and says whether the goroutine must be started.
func (p *replays) push(r *Reader) (start bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	x := p.all[r]
	if x == nil {
		return false
	}
	p.ready = append(p.ready, x)
	select {
	case p.came <- struct{}{}:
	default:
	}
	start = !p.running
	p.running = true
	return start
}

// take gives all that are ready.
func (p *replays) take() []*replay {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.ready
	p.ready = nil
	return list
}

// replaying is the number of sockets that get events from the stream.
func (h *Hub) replaying() (n int) {
	h.mu.Lock()
	feeds := h.all()
	h.mu.Unlock()
	for _, f := range feeds {
		f.replays.mu.Lock()
		n += len(f.replays.all)
		f.replays.mu.Unlock()
	}
	return n
}

// replay has r served from the stream. It does not block.
func (f *Feed) replay(r *Reader) {
	if !f.replays.push(r) {
		return
	}
	f.hub.work.Add(1)
	go func() {
		defer f.hub.work.Done()
		p := replayer{feed: f}
		p.run(f.hub.context)
	}()
}

// replayLater does so after the feed has had time to catch up.
func (f *Feed) replayLater(r *Reader) {
	time.AfterFunc(catchUp, func() {
		if f.hub.context.Err() == nil {
			f.replay(r)
		}
	})
}

// ended says whether the goroutine that asks may end: nobody is ready.
func (p *replays) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = len(p.ready) > 0
	return !p.running
}
