package gateway

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"canopy/shared/event"
)

// faultPatience is for what follows a fault: NATS waits for acknowledgements for 20 s.
const faultPatience = 90 * time.Second

// ledger counts what the members of a group receive. Its methods may be called from any
// goroutine.
type ledger struct {
	t   *testing.T
	end sync.WaitGroup

	mu     sync.Mutex
	times  map[string]int // by the events' ids
	shares map[int]int    // by member
	all    int
	gaps   []received
	grown  chan struct{} // has room for one: something was received
}

func newLedger(t *testing.T) *ledger {
	l := &ledger{t: t, times: map[string]int{}, shares: map[int]int{}, grown: make(chan struct{}, 1)}
	t.Cleanup(l.end.Wait)
	return l
}

// add reads from a member until it ends, and then gives the reason.
func (l *ledger) add(member int, socket *websocket.Conn) <-chan error {
	socket.SetReadLimit(1 << 20)
	ended := make(chan error, 1)
	l.end.Go(func() {
		for {
			_, payload, err := socket.Read(context.Background())
			if err != nil {
				ended <- err
				return
			}
			l.note(member, parse(l.t, payload))
		}
	})
	return ended
}

func (l *ledger) note(member int, r received) {
	l.mu.Lock()
	if r.Type == event.GapType {
		l.gaps = append(l.gaps, r)
	} else {
		l.times[r.ID]++
		l.shares[member]++
		l.all++
	}
	l.mu.Unlock()
	select {
	case l.grown <- struct{}{}:
	default:
	}
}

// counts are how many events came, and how many of them again.
func (l *ledger) counts() (distinct, repeats int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.times), l.all - len(l.times)
}

// share is what one member has received.
func (l *ledger) share(member int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shares[member]
}

// await waits until so many different events have come.
func (l *ledger) await(distinct int) {
	l.t.Helper()
	limit := time.After(faultPatience)
	for {
		n, _ := l.counts()
		if n >= distinct {
			return
		}
		select {
		case <-l.grown:
		case <-limit:
			l.t.Fatalf("only %d of %d events came within %s", n, distinct, faultPatience)
		}
	}
}

// expect ends a load, waits until every event of it has come, and gives the number of
// repeats.
func (l *ledger) expect(load *publishers) int {
	l.t.Helper()
	close(load.calm)
	load.all.Wait()
	l.await(int(load.total.Load()))
	l.mu.Lock()
	defer l.mu.Unlock()
	for run, last := range load.last {
		for n := 1; n <= last; n++ {
			if id := fmt.Sprintf("%d/%d", run, n); l.times[id] == 0 {
				l.t.Errorf("event %s was not received by any member", id)
			}
		}
	}
	return l.all - len(l.times)
}

// until waits until ok holds.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(faultPatience)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("not within %s: %s", faultPatience, what)
		}
	}
}

// link is a TCP proxy that fails as networks do.
type link struct {
	listener net.Listener
	target   string
	lost     atomic.Bool // bytes vanish both ways, and no connection ends
	eaten    atomic.Int64
	refuses  atomic.Bool
	all      sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
}

func newLink(t *testing.T, target string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &link{listener: listener, target: target}
	k.all.Go(k.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		k.cut()
		k.all.Wait()
	})
	return k
}

func (k *link) accept() {
	for {
		near, err := k.listener.Accept()
		if err != nil {
			return
		}
		if k.refuses.Load() {
			_ = near.Close()
			continue
		}
		far, err := net.Dial("tcp", k.target)
		if err != nil {
			_ = near.Close()
			continue
		}
		k.mu.Lock()
		k.conns = append(k.conns, near, far)
		k.mu.Unlock()
		k.all.Go(func() { k.carry(near, far) })
		k.all.Go(func() { k.carry(far, near) })
	}
}

func (k *link) carry(to, from net.Conn) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if k.lost.Load() {
			k.eaten.Add(int64(n))
			if err == nil {
				continue
			}
			return // the other side does not hear of it
		}
		if err == nil {
			_, err = to.Write(b[:n])
		}
		if err != nil {
			_, _ = to.Close(), from.Close()
			return
		}
	}
}

// cut ends all connections.
func (k *link) cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.conns {
		_ = c.Close()
	}
	k.conns = nil
}

// through opens a socket by way of k.
func (s *stack) through(k *link, path string) *websocket.Conn {
	s.t.Helper()
	o := *s
	o.http = k.listener.Addr().String()
	return o.dial(path, nil)
}
