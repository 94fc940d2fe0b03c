package group

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"canopy/shared/event"
)

// sight is what the edge saw of a consumer last.
type sight struct {
	at      time.Duration
	created time.Time     // when the consumer was made
	floor   uint64        // stream sequence up to which everything was acknowledged
	behind  bool          // events waited in the stream
	newest  uint64        // event that this edge was sent for the first time
	told    span          // what may be missing, when a gap was told last
	unsure  bool          // JetStream was out of reach, and may have said that events are gone
	risk    time.Duration // since when the log may have forgotten events that nobody was sent, 0 if not
	safe    uint64        // stream sequence behind which they are, when there was a risk last
	risked  time.Duration // when the group was last looked at because events may be gone
	evicted bool          // the application holds its whole share of the log, which forgets its events without a word
	failing time.Duration // since when it does not answer, 0 if it does

	failover time.Duration // when it is made again, if it goes on failing
}

// place is behind everything that this edge was sent, or knows to be acknowledged.
func (s *sight) place() uint64 { return max(s.newest, s.floor) }

// endanger has the consumer looked at soon: events behind safe may be gone.
func (s *sight) endanger(now time.Duration, safe uint64) {
	if s.risk == 0 {
		s.risk, s.safe = now, safe
	}
	s.safe = min(s.safe, safe)
}

// remade notes that the consumer is made again behind its floor. If the log has forgotten what
// stands there, JetStream says that everything up to the log's beginning is acknowledged.
func (s *sight) remade(now time.Duration) {
	if s.floor > 0 {
		s.endanger(now, s.floor)
	}
}

// sent notes an event that this edge is sent for the first time. What follows the safe place
// without a hole is safe as well.
func (s *sight) sent(seq uint64) {
	s.newest = max(s.newest, seq)
	if seq == s.safe+1 {
		s.safe = seq
	}
}

// evictedEvery is the time between looks at a group whose application is evicted. One that
// keeps up is told of a gap, to be certain, if its application fills its whole share between
// two looks.
const evictedEvery = time.Second

// floorBefore is what everything up to which was acknowledged when the group was looked at
// last, 0 if that was too long ago to mean anything: other edges may have served it since.
func (s *sight) floorBefore(now time.Duration) uint64 {
	if s.at == 0 || now-s.at > 2*lookEvery {
		return 0
	}
	return s.floor
}

// due says whether the consumer is to be looked at again. A group that stays at risk, or has
// losses, is told of it from time to time.
func (s *sight) due(now, every time.Duration, lossy bool) bool {
	return s.at == 0 || now-s.at >= every || s.evicted && now-s.at >= evictedEvery ||
		(s.risk > 0 || lossy) && (s.risked == 0 || now-s.risked >= riskEvery)
}

// see notes what the consumer was like when it was asked for. With check, or if events may
// be gone, it finds out whether the log has forgotten some that the group had not got, and
// tells it. Of a risk that came later info says nothing: that is for the next look.
func (h *Hub) see(ctx context.Context, g *Group, info *jetstream.ConsumerInfo, asked time.Duration, check bool) error {
	lost := h.losses.first(g.subject.name(), g.log(), h.now())
	g.mu.Lock()
	seen := &g.seen
	evicted, before := seen.evicted, seen.floorBefore(h.now())
	seen.at, seen.failing, seen.created = h.now(), 0, info.Created
	seen.floor, seen.behind = max(seen.floor, info.AckFloor.Stream), info.NumPending > 0
	since, safe, unsure := seen.risk, seen.safe, seen.unsure
	risk := since > 0 && since <= asked
	if risk {
		seen.risk = 0
	}
	seen.unsure = false
	if !unsure && h.nc.IsConnected() {
		g.rotation.ceded.turn(seen.at)
	}
	if risk || lost > 0 {
		seen.risked = seen.at
	}
	g.mu.Unlock()

	gap := risk || lost > 0 || evicted || (check || unsure) && info.AckFloor.Stream > 0
	if !gap && !unsure {
		return nil
	}
	oldest, err := h.oldest(ctx, g)
	if err == nil && oldest == 0 {
		// Nothing is left of the application: nobody can tell whose events stood there.
		_, oldest, err = h.streamOf(ctx, g)
	}
	g.mu.Lock()
	if err != nil {
		if risk {
			if seen.risk > 0 {
				seen.safe = min(safe, seen.safe)
			}
			seen.risk = since
		}
		seen.unsure = seen.unsure || unsure || check
		g.mu.Unlock()
		return err
	}
	g.rotation.ownBefore(oldest)
	if unsure || evicted {
		g.rotation.done.ceded = append(g.rotation.done.ceded, g.rotation.ceded.takeBefore(oldest)...)
	}
	after := info.AckFloor.Stream
	if evicted {
		after = behindEviction(after, before, oldest)
	}
	if risk {
		if seen.risk == 0 {
			safe = seen.safe // it may have gone on
		}
		after = min(after, safe)
	}
	if lost > 0 {
		after = min(after, lost-1)
	}
	gap = gap && oldest > after+1 && (oldest != seen.told.Before || after < seen.told.After)
	if gap {
		seen.told = span{after, oldest}
	}
	g.schedule()
	if gap {
		h.tell(g, event.GapRetention, after, oldest)
	}
	return nil
}

// behindEviction is the place behind which events may be gone that were taken out because
// of the application's share. JetStream moves the consumer to the oldest one that is left
// then, as if all before were acknowledged: floor says nothing if it is just there, and the
// one before, which was seen at the last look and is 0 if there was none, does.
func behindEviction(floor, before, oldest uint64) uint64 {
	switch {
	case before > 0:
		return min(floor, before)
	case floor > 0 && oldest == floor+1:
		return 0
	}
	return floor
}
