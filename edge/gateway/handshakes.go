package gateway

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"canopy/edge/internal/procs"
)

const (
	// handshakesPerCore is how many TLS handshakes an edge answers in a second for each of
	// its cores, unless it is told otherwise.
	handshakesPerCore = 500

	// turnTimeout is how long a handshake may wait for its turn: less than the client has
	// for it and its request.
	turnTimeout = readHeaderTimeout - 2*time.Second
)

var errNoTurn = errors.New("too many TLS handshakes")

// handshakes lets clients' hellos be answered one after the other, as many in a second as are
// allowed and on half of the cores at most, so that a flood of them leaves the rest to open
// sockets. A turn lasts as long as something is computed: a client that does not go on holds
// up nobody. Those that wait hold no place among those that come, so one that leaves costs
// the others nothing.
type handshakes struct {
	turns  chan struct{}
	rate   *rate.Limiter
	vain   prometheus.Counter
	served func(*visitor)
	waits  func(*visitor)
}

// newHandshakes allows perSecond of them; 0 means handshakesPerCore.
func newHandshakes(perSecond int, door *door, vain prometheus.Counter) *handshakes {
	cores := procs.Workers()
	if perSecond == 0 {
		perSecond = handshakesPerCore * cores
	}
	return &handshakes{
		turns: make(chan struct{}, max(1, cores/2)),
		// What may come at once covers what a timer is late by.
		rate: rate.NewLimiter(rate.Limit(perSecond), max(1, perSecond/100)),
		vain: vain, served: door.served, waits: door.awaited,
	}
}

// connKey is where a context has its connection.
type connKey struct{}

// turn waits for the turn of a connection's handshake, which ends when done is called. One
// that has had a turn counts for the rate already.
func (h *handshakes) turn(ctx context.Context) (done func(), err error) {
	c, ok := ctx.Value(connKey{}).(*frontConn)
	if !ok {
		return nil, errNoTurn // net/http has not come by Read
	}
	h.served(&c.visitor)
	defer h.waits(&c.visitor)
	select {
	case h.turns <- struct{}{}:
	default:
		timeout := time.NewTimer(turnTimeout)
		defer timeout.Stop()
		select {
		case h.turns <- struct{}{}:
		case <-c.gone:
			return nil, net.ErrClosed
		case <-timeout.C:
			h.vain.Inc()
			return nil, errNoTurn
		}
	}
	done = sync.OnceFunc(func() { <-h.turns })
	if c.turnDone == nil {
		if err := h.rate.Wait(ctx); err != nil {
			done()
			return nil, err
		}
	}
	c.turnDone = done
	return done, nil
}
