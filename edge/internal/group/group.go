// Package group splits the events of an application between sockets that share a
// group_id, and acknowledges what they have received.
//
// For each application, channel, kind of reader (member or public) and group_id there is one durable push
// consumer in JetStream, whose deliver group is a NATS queue group. Each ready member has
// one queue subscription, so that NATS weights every edge by its members; on one edge they
// share a rotation.
//
// The way of an event: NATS → Hub.read → Group.receive → rotation (whose turn is it) →
// Socket.Send, with a Ping behind it → the client's Pong → acknowledged to JetStream.
//
// A group has no goroutine and no timer. What happens to it (an event, a Pong, a member
// that leaves) changes its rotation under its lock and has it stand in the hub's queue; a
// worker then does, one at a time for each group, what follows from that.
package group

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"canopy/shared/event"
)

// Group is one group on this edge.
//
// Any goroutine may call its methods. mu is never held across a request or a write.
type Group struct {
	hub     *Hub
	key     Key
	subject subjects
	inbound chan *nats.Msg // of the reader that its subscriptions share with other groups

	opened chan struct{} // closed when the consumer is known or opening has failed
	failed error         // set before opened is closed
	logID  atomic.Uint64

	mu        sync.Mutex
	rotation  rotation
	queued    bool          // in the hub's queue or in a worker's hands
	active    bool          // among those that the hub's clock visits
	pins      int           // callers between finding the group and joining it
	sockets   int           // members that have joined and not left
	left      time.Duration // when the last one has left, 0 as long as there are some
	idle      time.Duration // since when it has had none
	behind    bool          // subscriptions are to be ended as soon as others have
	retention retention
	seen      sight // what the last look at the consumer said

	subs []*nats.Subscription // of whatever worker serves the group
}

// subjects are a group's names in NATS.
type subjects struct {
	shard    int
	stream   string
	consumer string
	filter   string // what the consumer reads
	deliver  string // where it sends
}

// name is that of the consumer, among those of all streams.
func (s subjects) name() string { return s.stream + "." + s.consumer }

func newGroup(h *Hub, key Key, s subjects, inbound chan *nats.Msg) *Group {
	g := &Group{hub: h, key: key, subject: s, inbound: inbound, opened: make(chan struct{})}
	room := h.room
	if key.Public {
		room = h.publicRoom
	}
	g.rotation = newRotation(h.config.limits(room), room)
	g.rotation.describe = func(d *delivery) event.Gap { return describeGap(key.Application, g.log(), d) }
	return g
}

func (g *Group) log() event.Log { return event.Log(g.logID.Load()) }

// receive takes messages of the consumer, at most readAtOnce. It is called by the group's
// reader.
func (g *Group) receive(list []*nats.Msg) {
	var made [readAtOnce]struct {
		event  *delivery
		from   origin
		wanted bool
	}
	for i, msg := range list {
		made[i].event, made[i].from, made[i].wanted = g.delivery(msg)
	}
	wall := time.Now()
	g.mu.Lock()
	now := g.hub.now()
	for _, next := range made[:len(list)] {
		if next.event != nil && next.from.delivered == 1 {
			if g.retention.forgets(next.from, wall) {
				g.seen.endanger(now, g.seen.place())
			}
			g.seen.sent(next.from.sequence)
		}
		switch d := next.event; {
		case d == nil:
		case next.wanted:
			g.suspect(d)
			g.rotation.take(d, now)
		default:
			g.rotation.done.acks = append(g.rotation.done.acks, d.reply)
		}
	}
	g.schedule()
}

// delivery makes an event of a message: nil if no consumer has sent it, and not wanted if
// nobody is to get it.
func (g *Group) delivery(msg *nats.Msg) (d *delivery, from origin, wanted bool) {
	from, ok := parseReply(msg.Reply)
	if !ok {
		g.hub.stats.foreign.Inc() // a core publish to the deliver subject: nobody waits for its acknowledgement
		return nil, from, false
	}
	if from.delivered > 1 {
		g.hub.stats.redelivered.Inc()
	}
	d = &delivery{seq: from.sequence, stored: from.stored, data: msg.Data, reply: msg.Reply, appended: appended(msg.Header)}
	if !g.key.wants(msg.Header) {
		return d, from, false
	}
	if n := len(d.data); n < len(`{"a":0}`) || d.data[0] != '{' || d.data[n-1] != '}' {
		g.hub.stats.faults.Inc()
		g.hub.log.Warn("event skipped: it is not a JSON object",
			zap.String("application", g.key.Application), zap.Uint64("sequence", d.seq))
		return d, from, false
	}
	return d, from, true
}

// appended reads when an event was appended to Kafka, in ms since 1970; 0 if unknown.
func appended(header nats.Header) int64 {
	n, _ := strconv.ParseInt(header.Get(event.HeaderAppended), 10, 64)
	return n
}

// schedule has a worker look at g. mu is held and released.
func (g *Group) schedule() {
	push := !g.queued
	g.queued = true
	activate := !g.active && g.rotation.needsClock()
	g.active = g.active || activate
	g.mu.Unlock()
	if activate {
		g.hub.activate(g)
	}
	if push {
		g.hub.push(g)
	}
}

// tick lets time pass. It says whether g is to be visited again.
func (g *Group) tick(now time.Duration, connected bool) bool {
	g.mu.Lock()
	g.rotation.tick(now, connected)
	g.behind = false
	g.active = g.rotation.needsClock()
	again := g.active
	g.schedule()
	return again
}

// subscribe makes the number of queue subscriptions that of the ready members. If it
// cannot do all of it now, the clock comes again.
func (g *Group) subscribe(want int) {
	for len(g.subs) < want {
		sub, err := g.hub.nc.ChanQueueSubscribe(g.subject.deliver, g.subject.consumer, g.inbound)
		if err != nil {
			g.wait() // the connection is closed, and the edge ends
			return
		}
		g.subs = append(g.subs, sub)
	}
	for len(g.subs) > want {
		last := len(g.subs) - 1
		if !g.hub.drains.end(g.subs[last]) {
			g.wait()
			return
		}
		g.subs[last] = nil
		g.subs = g.subs[:last]
	}
	if want == 0 {
		g.subs = nil
	}
}

// wait has the clock come for what could not be done now.
func (g *Group) wait() {
	g.mu.Lock()
	g.behind = true
	activate := !g.active
	g.active = true
	g.mu.Unlock()
	if activate {
		g.hub.activate(g)
	}
}
