package group

import (
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// failureKept is how long an edge remembers what is held against an event that it has not.
	failureKept = time.Hour

	// maxFailuresOfOne bounds the events that are remembered of one group, and maxFailures those
	// of all. What finds no room is tried more often.
	maxFailuresOfOne = 1 << 10
	maxFailures      = 16 << 10

	// displaceOf is the number of groups of which one makes room.
	displaceOf = 16

	// failuresAtOnce bounds those in one message between edges.
	failuresAtOnce = 1 << 10
)

// failure is what is held against an event, as edges tell each other: it was with a member
// that failed, and so many trials of it failed.
type failure struct {
	Sequence uint64 `json:"seq"`
	Stored   int64  `json:"stored"` // when the stream took it, so that it is no other one
	Failed   int    `json:"failed"`
}

// failures is what an edge remembers of events that go from one edge to the next while they
// are tried. Whoever gives an event to JetStream has told all edges before, as has whoever saw
// a trial fail; an edge that missed it only lets it be tried more often.
//
// Any goroutine may call it.
type failures struct {
	all atomic.Int64

	mu sync.Mutex
	of map[string]map[uint64]remembered // by a consumer's full name and the event's sequence
}

type remembered struct {
	failure
	heard time.Duration
}

// note remembers what is held against events of a consumer.
func (f *failures) note(consumer string, list []failure, now time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range list {
		known, there := f.of[consumer][one.Sequence]
		switch {
		case there && known.Stored == one.Stored:
			one.Failed = max(one.Failed, known.Failed)
		case there:
		case len(f.of[consumer]) >= maxFailuresOfOne && !f.displace(consumer, one):
			continue
		default:
			f.makeRoom()
			f.all.Add(1)
		}
		if f.of[consumer] == nil {
			f.of[consumer] = map[uint64]remembered{}
		}
		f.of[consumer][one.Sequence] = remembered{one, now}
	}
}

// displace forgets an event of a consumer that has failed less often than a new one, and is
// false if there is none. mu is held.
func (f *failures) displace(consumer string, by failure) bool {
	for seq, known := range f.of[consumer] {
		if known.Failed < by.Failed {
			delete(f.of[consumer], seq)
			f.all.Add(-1)
			return true
		}
	}
	return false
}

// makeRoom makes room for one more event: if there is none, of some groups by chance the one that
// has most loses one. mu is held.
func (f *failures) makeRoom() {
	if f.all.Load() < maxFailures {
		return
	}
	most, looked := "", 0
	for consumer, mine := range f.of {
		if len(mine) > len(f.of[most]) {
			most = consumer
		}
		if looked++; looked == displaceOf {
			break
		}
	}
	for seq := range f.of[most] {
		f.forget(most, seq)
		return
	}
}

// forget forgets one event. mu is held.
func (f *failures) forget(consumer string, seq uint64) {
	delete(f.of[consumer], seq)
	f.all.Add(-1)
	if len(f.of[consumer]) == 0 {
		delete(f.of, consumer)
	}
}

// against is what is held against an event.
func (f *failures) against(consumer string, seq uint64, stored int64) doubt {
	f.mu.Lock()
	defer f.mu.Unlock()
	known, there := f.of[consumer][seq]
	if !there || known.Stored != stored {
		return doubt{}
	}
	return doubt{suspect: true, failed: known.Failed}
}

// drop forgets what is known of a consumer.
func (f *failures) drop(consumer string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all.Add(-int64(len(f.of[consumer])))
	delete(f.of, consumer)
}

// tidy forgets what was heard long ago.
func (f *failures) tidy(now time.Duration) {
	if f.all.Load() == 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for consumer, mine := range f.of {
		for seq, known := range mine {
			if now-known.heard >= failureKept {
				f.forget(consumer, seq)
			}
		}
	}
}

// tellFailures remembers what is held against events of g, and tells the other edges, before
// the events themselves go anywhere.
func (g *Group) tellFailures(list []failure) {
	if len(list) == 0 {
		return
	}
	name := g.subject.name()
	g.hub.failures.note(name, list, g.hub.now())
	for from := 0; from < len(list); from += failuresAtOnce {
		g.hub.tellEdges(name, word{Failed: list[from:min(from+failuresAtOnce, len(list))]})
	}
}

// failuresCame takes what another edge holds against events of a consumer.
func (h *Hub) failuresCame(consumer string, list []failure) {
	h.failures.note(consumer, list, h.now())
	h.mu.RLock()
	g := h.byConsumer[consumer]
	h.mu.RUnlock()
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, one := range list {
		g.rotation.learn(one)
	}
}

// suspect gives an event that is about to be taken what is held against it. mu is held, so
// that nothing is missed that other edges say at the same time.
func (g *Group) suspect(d *delivery) {
	if g.hub.failures.all.Load() > 0 {
		d.doubt = g.hub.failures.against(g.subject.name(), d.seq, d.stored)
	}
}

// report tells the operator what the group goes on without.
func (g *Group) report(o *outcome) {
	for _, gap := range o.aside {
		g.hub.stats.undeliverable.Inc()
		g.hub.log.Warn("event set aside: every member that was given it failed", zap.Stringer("group", g.key),
			zap.Stringer("cursor", gap.Event), zap.Int("bytes", gap.Bytes), zap.Int("tries", g.hub.config.Groups.MaxDeliveries))
	}
	for _, gap := range o.untold {
		g.hub.stats.untold.Inc()
		g.hub.log.Warn("no member of a group takes a gap event", zap.Stringer("group", g.key), zap.String("reason", gap.Reason),
			zap.Stringer("after", gap.After), zap.Stringer("before", gap.Before))
	}
}
