package gateway

import (
	"container/heap"
	"container/list"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"canopy/shared/config"
)

// stale is how long a client may keep the edge waiting before its place may be another's:
// more than a handshake and a request take, by whatever way they come.
const stale = 2 * time.Second

// door bounds the connections that are no sockets yet: visitors. An address has so many of
// them, and so has the edge. When a bound is reached, one goes so that another may come, or
// the new one does, and this is who:
//
//   - Of one address, the one that keeps the edge waiting for longest, if that is stale, or
//     else, if requests have more than half of its places, the one that is answered for
//     longest, by the same measure; otherwise the new one. So an attacker locks nobody out
//     for long with whom he shares an address, and a rush of honest clients is served in the
//     order in which they came: if new ones took the places of others at random, those of a
//     rush would end each other's handshakes, and come again.
//   - Of all, the stale one of the address that has most, or else the stalest; then the
//     oldest of the address that has most, if that is more than the new one's. So an attacker
//     with some addresses takes no place from those who have fewer, however often he comes
//     anew; one with as many addresses as there are places gets 2 s for each of them.
//
// A visitor that waits for the edge is not stale, however long that takes, but for those
// requests: until its handshake's turn comes, and while its request is answered.
//
// Any goroutine may use it. What goes is cut after the lock was given back.
type door struct {
	most, each        int // places of all and of one address; 0 is off
	over, overAddress prometheus.Counter
	now               func() time.Time

	mu      sync.Mutex
	inside  int
	waits   list.List // of *visitor: those that keep the edge waiting, the longest first
	peers   map[netip.Prefix]*peer
	fullest peers
}

// visitor is a connection's place. Its fields are the door's, but cut.
type visitor struct {
	cut    func() // ends the connection, without a word and without waiting
	inside bool
	peer   *peer         // nil if it counts for the whole only
	since  time.Time     // when it began to keep the edge waiting, or its request did
	wait   *list.Element // nil while it waits for the edge
	asks   bool          // its request waits for the edge
}

// peer is an address with visitors.
type peer struct {
	address  netip.Prefix
	visitors []*visitor // in the order in which they came
	index    int        // in door.fullest
}

func newDoor(l config.Limits, counts *limits) *door {
	return &door{
		most: l.HalfOpen, each: l.HalfOpenPerAddress, over: counts.halfOpen, overAddress: counts.visitors,
		now: time.Now, peers: make(map[netip.Prefix]*peer),
	}
}

// enter gives v a place, which counts for address too, unless that is not valid. It is false
// if there is none. The edge has descriptors for so many visitors now, if that is less than
// they may be.
func (d *door) enter(v *visitor, address netip.Prefix, descriptors int) bool {
	d.mu.Lock()
	out, ok := d.room(address, descriptors)
	if ok {
		v.inside = true
		d.inside++
		d.wait(v)
		d.join(v, address)
	}
	d.mu.Unlock()
	if out != nil {
		out.cut()
	}
	return ok
}

// introduce has v, which counted for nobody, count for address, which is known only now. It
// is false if that has no place for it: v has none any more.
func (d *door) introduce(v *visitor, address netip.Prefix) bool {
	d.mu.Lock()
	var out *visitor
	ok := v.inside
	if ok {
		if out, ok = d.roomOf(address); ok {
			d.join(v, address)
		} else {
			d.remove(v)
		}
	}
	d.mu.Unlock()
	if out != nil {
		out.cut()
	}
	return ok
}

// leave gives v's place back, if it has one.
func (d *door) leave(v *visitor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remove(v)
}

// served says that v waits for the edge from now on.
func (d *door) served(v *visitor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.serve(v)
}

// requested says that v's request waits for the edge from now on.
func (d *door) requested(v *visitor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.serve(v)
	v.asks, v.since = true, d.now()
}

// awaited says that the edge waits for v from now on.
func (d *door) awaited(v *visitor) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v.asks = false
	if v.inside && v.wait == nil {
		d.wait(v)
	}
}

// count is how many visitors there are.
func (d *door) count() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return float64(d.inside)
}

// room finds a place for a visitor from address: out has to leave for it. mu is held, as by
// all that follows.
func (d *door) room(address netip.Prefix, descriptors int) (out *visitor, ok bool) {
	if out, ok = d.roomOf(address); out != nil || !ok {
		return out, ok
	}
	most := descriptors
	if d.most > 0 {
		most = min(most, d.most)
	}
	if d.inside < most {
		return nil, true
	}
	d.over.Inc()
	if out = d.victim(address); out != nil {
		d.remove(out)
	}
	return out, out != nil
}

// roomOf is room by the bound of an address.
func (d *door) roomOf(address netip.Prefix) (out *visitor, ok bool) {
	p := d.peers[address]
	if d.each == 0 || p == nil || len(p.visitors) < d.each {
		return nil, true
	}
	d.overAddress.Inc()
	if out = d.stalest(p); out != nil {
		d.remove(out)
	}
	return out, out != nil
}

// victim is who leaves for a visitor from address when all places are taken.
func (d *door) victim(address netip.Prefix) *visitor {
	var most *peer
	if len(d.fullest) > 0 {
		most = d.fullest[0]
		if v := d.stalest(most); v != nil && len(most.visitors) > 1 {
			return v
		}
	}
	if first := d.waits.Front(); first != nil {
		if v := first.Value.(*visitor); d.isStale(v) {
			return v
		}
	}
	has := 1 // with the new one
	if p := d.peers[address]; p != nil {
		has += len(p.visitors)
	}
	if most != nil && len(most.visitors) > has {
		return most.visitors[0]
	}
	return nil
}

// stalest is the visitor of p that keeps the edge waiting for longest, if that is stale. If
// there is none, it is the request that is answered for longest, once p has too many. nil if
// that has just come, too.
func (d *door) stalest(p *peer) *visitor {
	var waits, asks *visitor
	requests := 0
	for _, v := range p.visitors {
		switch {
		case v.asks:
			if requests++; asks == nil || v.since.Before(asks.since) {
				asks = v
			}
		case d.isStale(v) && (waits == nil || v.since.Before(waits.since)):
			waits = v
		}
	}
	if waits == nil && d.each > 0 && requests > d.each/2 && d.now().Sub(asks.since) >= stale {
		return asks
	}
	return waits
}

func (d *door) isStale(v *visitor) bool { return v.wait != nil && d.now().Sub(v.since) >= stale }

func (d *door) serve(v *visitor) {
	if v.inside && v.wait != nil {
		d.waits.Remove(v.wait)
		v.wait = nil
	}
}

func (d *door) wait(v *visitor) {
	v.since, v.wait = d.now(), d.waits.PushBack(v)
}

func (d *door) join(v *visitor, address netip.Prefix) {
	if !address.IsValid() {
		return
	}
	p := d.peers[address]
	if p == nil {
		p = &peer{address: address}
		d.peers[address] = p
		heap.Push(&d.fullest, p)
	}
	v.peer = p
	p.visitors = append(p.visitors, v)
	heap.Fix(&d.fullest, p.index)
}

func (d *door) remove(v *visitor) {
	if !v.inside {
		return
	}
	d.serve(v)
	v.inside = false
	d.inside--
	p := v.peer
	if p == nil {
		return
	}
	v.peer = nil
	at := slices.Index(p.visitors, v)
	p.visitors = slices.Delete(p.visitors, at, at+1)
	if len(p.visitors) == 0 {
		heap.Remove(&d.fullest, p.index)
		delete(d.peers, p.address)
		return
	}
	heap.Fix(&d.fullest, p.index)
}

// peers is a heap with the address on top that has most visitors.
type peers []*peer

func (h peers) Len() int           { return len(h) }
func (h peers) Less(i, j int) bool { return len(h[i].visitors) > len(h[j].visitors) }

func (h peers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push is heap's.
func (h *peers) Push(x any) {
	p := x.(*peer)
	p.index = len(*h)
	*h = append(*h, p)
}

// Pop is heap's.
func (h *peers) Pop() any {
	last := len(*h) - 1
	p := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return p
}
