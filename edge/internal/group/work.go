package group

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"canopy/edge/internal/ws"
	"canopy/shared/event"
)

// queueOfGroups holds the groups that have something to do. Any goroutine may push.
type queueOfGroups struct {
	mu     sync.Mutex
	cond   *sync.Cond
	list   queue[*Group]
	closed bool
}

func newQueueOfGroups() *queueOfGroups {
	q := &queueOfGroups{}
	q.cond = sync.NewCond(&q.mu)
	return q
}

func (h *Hub) push(g *Group) { h.queue.push(g) }

func (q *queueOfGroups) push(g *Group) {
	q.mu.Lock()
	q.list.push(g)
	q.mu.Unlock()
	q.cond.Signal()
}

func (q *queueOfGroups) pop() *Group {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.list.len() == 0 && !q.closed {
		q.cond.Wait()
	}
	if q.list.len() == 0 {
		return nil
	}
	return q.list.pop()
}

// stop ends serve, in every worker, when nothing is left to do.
func (q *queueOfGroups) stop() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.cond.Broadcast()
}

// serve works for one group after the other until stop is called. It is called once for
// each worker.
func (q *queueOfGroups) serve() {
	var w worker
	for {
		g := q.pop()
		if g == nil {
			return
		}
		if w.turn(g) {
			q.push(g)
		}
	}
}

// worker is what one goroutine has for itself.
type worker struct {
	outcome outcome
	buffer  []byte
	json    []byte // one event, that is to be compressed
}

// turn does what there is to do for g, for a bounded time. It says whether there is more.
func (w *worker) turn(g *Group) bool {
	for range turnRounds {
		if !w.round(g) {
			return false
		}
	}
	return true
}

// round lets the rotation decide, and does that. It says whether there may be more.
func (w *worker) round(g *Group) bool {
	g.mu.Lock()
	g.rotation.assign(g.hub.now(), g.hub.overHeld())
	w.outcome, g.rotation.done = g.rotation.done, w.outcome.reset()
	want := g.rotation.subscriptions()
	if len(w.outcome.lost)+len(w.outcome.ceded) > 0 {
		g.seen.told = span{} // it may have been what is lost
	}
	if g.rotation.alone {
		g.rotation.alone = false
		g.seen.endanger(g.hub.now(), g.seen.place())
	}
	if w.outcome.empty() {
		// The memory goes on with the worker: there may be very many groups.
		w.outcome, g.rotation.done = g.rotation.done, outcome{}
		if len(g.subs) == want || g.behind {
			g.queued = false // from here on another worker may serve it
			g.mu.Unlock()
			return false
		}
	}
	g.mu.Unlock()
	g.subscribe(want) // first: what is handed back must not come to a subscription that ends
	w.carryOut(g)
	return true
}

// carryOut does what the rotation has decided.
func (w *worker) carryOut(g *Group) {
	o, stats := &w.outcome, g.hub.stats
	g.tellFailures(o.failures)
	g.report(o)
	g.answer(o.acks, ackText)
	g.answer(o.naks, nakText)
	g.answer(o.later, laterText)
	g.answer(o.progress, progressText)
	for _, seq := range o.lost {
		g.hub.losses.lose(g.subject.name(), seq, g.log(), g.hub.now())
		g.hub.tellEdges(g.subject.name(), word{Lost: seq})
	}
	for _, seq := range o.ceded {
		g.hub.forgotten(g.subject.name(), seq)
		g.hub.tellEdges(g.subject.name(), word{Ceded: seq})
	}
	for _, gap := range o.told {
		g.told(gap)
	}
	stats.acknowledged.Add(float64(len(o.acks)))
	stats.refused.Add(float64(len(o.naks) + len(o.later)))
	stats.repeated.Add(float64(o.repeated))
	stats.slowed.Add(float64(o.slowed))
	for i := range o.writes {
		w.write(g, &o.writes[i])
	}
	for _, m := range o.silent {
		stats.silent.Inc()
		m.socket.Unanswering()
	}
	for _, m := range o.ended {
		m.socket.Detached()
	}
}

// answers to JetStream, and what they say
var (
	ackText      = []byte("+ACK")
	nakText      = []byte("-NAK")
	laterText    = fmt.Appendf(nil, `-NAK {"delay": %d}`, time.Second)
	progressText = []byte("+WPI")
)

// answer publishes text to each of the replies. What cannot be published now JetStream
// sends again when the time for its acknowledgement is over.
func (g *Group) answer(replies []string, text []byte) {
	for _, reply := range replies {
		if err := g.hub.nc.Publish(reply, text); err != nil {
			g.hub.stats.unanswered.Inc()
		}
	}
}

// write sends a member its events and, at once with them, the Ping that asks for them.
func (w *worker) write(g *Group, next *write) {
	b := w.buffer[:0]
	events := w.outcome.events[next.from:next.to]
	for _, d := range events {
		at := event.Cursor{Log: g.log(), Sequence: d.seq}
		if next.member.packs {
			w.json = event.AppendCursor(w.json[:0], d.data, at)
			b = g.hub.config.Deflater.AppendFrame(b, ws.OpText, w.json, 0)
			continue
		}
		b = ws.AppendHeader(b, ws.OpText, len(d.data)+event.CursorSuffixLen)
		b = event.AppendCursor(b, d.data, at)
	}
	if next.ping != 0 {
		var payload [pingBytes]byte
		binary.BigEndian.PutUint64(payload[:], next.member.tag)
		binary.BigEndian.PutUint64(payload[8:], next.ping)
		b = ws.AppendFrame(b, ws.OpPing, payload[:])
	}
	next.member.socket.Send(b, next.ping != 0)
	g.hub.stats.delivered(events, len(b), time.Now())
	if cap(b) <= keepBuffer {
		w.buffer = b
	}
	if cap(w.json) > keepBuffer {
		w.json = nil
	}
}
