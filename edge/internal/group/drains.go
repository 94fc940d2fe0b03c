package group

import (
	"sync"

	"github.com/nats-io/nats.go"
)

// drainsAtOnce bounds the subscriptions that are being drained: each needs a goroutine
// and a round trip.
const drainsAtOnce = 128

// drains ends subscriptions without losing what is on the way to them.
//
// Any goroutine may call it.
type drains struct {
	nc *nats.Conn

	mu      sync.Mutex
	running int
	ended   []uint64 // for each that has ended: how often the client had reconnected when it began
}

// end ends sub. It is false if too many others are being drained.
func (d *drains) end(sub *nats.Subscription) bool {
	if !d.nc.IsConnected() {
		_ = sub.Unsubscribe() // nothing is on the way, and it is not made again
		return true
	}
	d.mu.Lock()
	if d.running >= drainsAtOnce {
		d.mu.Unlock()
		return false
	}
	d.running++
	d.mu.Unlock() // the handler is called under locks of the client, which the rest takes
	began := d.nc.Stats().Reconnects
	sub.SetClosedHandler(func(string) {
		d.mu.Lock()
		d.running--
		d.ended = append(d.ended, began)
		d.mu.Unlock()
	})
	_ = sub.Drain() // fails only if the connection is closed
	return true
}

// check looks for subscriptions that were drained while the client reconnected. The
// client makes those again, then forgets them without telling the server, which goes on
// sending events that nobody takes. Only another connection ends that.
func (d *drains) check() {
	d.mu.Lock()
	ended := d.ended
	d.ended = nil
	d.mu.Unlock()
	if len(ended) == 0 {
		return
	}
	now := d.nc.Stats().Reconnects
	for _, began := range ended {
		if began != now {
			_ = d.nc.ForceReconnect() // fails only if the connection is closed
			return
		}
	}
}
