package group

import (
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"canopy/shared/event"
	"canopy/shared/subject"
)

const (
	endedAdvisory = "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED."

	// wordPrefix is where edges tell each other about events that the log has forgotten, by
	// stream and consumer.
	wordPrefix = "canopy.groups."

	// claimTime is how long an edge that still has such an event may take to say so, and
	// claimKept how long it is remembered that it did: advisories may come later.
	claimTime = 500 * time.Millisecond
	claimKept = 10 * time.Second

	// maxLosses bounds the events that are remembered, of one group and of all. Of one group
	// the oldest matters: a gap begins there. Public readers' groups have at most their share,
	// so that what members are not told is never their doing.
	maxLossesOfOne = 4 << 10
	maxLosses      = 64 << 10
)

// losses are events that the log has forgotten after some group's consumer had sent them and
// before anybody acknowledged them. The consumer counts them as acknowledged, so nobody who
// comes later can see it; therefore every edge remembers them, of all groups of the cluster,
// until some member knows.
//
// Any goroutine may call it.
type losses struct {
	mu     sync.Mutex
	of     map[string]map[uint64]loss // by a consumer's full name and the event's sequence
	all    int
	public int // of all, those of public readers' groups
}

type loss struct {
	log     event.Log // 0 if it was not known
	heard   time.Duration
	claimed bool // it is not lost: some edge has it
}

// add notes that the log has forgotten an event.
func (l *losses) add(consumer string, seq uint64, log event.Log, now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, there := l.of[consumer][seq]; !there {
		l.set(consumer, seq, loss{log: log, heard: now})
	}
}

// claim notes that an edge has an event, and lose that it had it and cannot give it any more.
func (l *losses) claim(consumer string, seq uint64, now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(consumer, seq, loss{heard: now, claimed: true})
}

func (l *losses) lose(consumer string, seq uint64, log event.Log, now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(consumer, seq, loss{log: log, heard: now})
}

// set notes something of an event, if there is room. mu is held.
func (l *losses) set(consumer string, seq uint64, is loss) {
	mine := l.of[consumer]
	if _, there := mine[seq]; !there {
		if len(mine) >= maxLossesOfOne || l.all >= maxLosses || l.public >= maxLosses/publicShare && ofPublic(consumer) {
			return
		}
		l.count(consumer, 1)
	}
	if mine == nil {
		mine = map[uint64]loss{}
		l.of[consumer] = mine
	}
	mine[seq] = is
}

// count notes that n more events of a consumer are remembered. mu is held.
func (l *losses) count(consumer string, n int) {
	l.all += n
	if ofPublic(consumer) {
		l.public += n
	}
}

// ofPublic says whether a consumer, by its full name, is that of a public readers' group.
func ofPublic(consumer string) bool {
	_, name, _ := strings.Cut(consumer, ".")
	_, public, _ := accountOf(name)
	return public
}

// tidy forgets claims that nobody needs any more.
func (l *losses) tidy(now time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for consumer, mine := range l.of {
		for seq, is := range mine {
			if is.claimed && now-is.heard >= claimKept {
				delete(mine, seq)
				l.count(consumer, -1)
			}
		}
		if len(mine) == 0 {
			delete(l.of, consumer)
		}
	}
}

// remove forgets the events between two sequences, both of them excluded.
func (l *losses) remove(consumer string, after, before uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	mine := l.of[consumer]
	for seq := range mine {
		if after < seq && seq < before {
			delete(mine, seq)
			l.count(consumer, -1)
		}
	}
	if len(mine) == 0 {
		delete(l.of, consumer)
	}
}

// drop forgets what is known of a consumer.
func (l *losses) drop(consumer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count(consumer, -len(l.of[consumer]))
	delete(l.of, consumer)
}

// first is the oldest event of a log that is gone and that nobody has claimed, 0 if there is
// none.
func (l *losses) first(consumer string, log event.Log, now time.Duration) (first uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for seq, at := range l.of[consumer] {
		if !at.claimed && (at.log == log || at.log == 0) && now-at.heard >= claimTime && (first == 0 || seq < first) {
			first = seq
		}
	}
	return first
}

// word is what edges tell each other of a group's events.
type word struct {
	Kept uint64 `json:"kept,omitempty"` // the log has forgotten it, but it comes from here
	Lost uint64 `json:"lost,omitempty"` // so it was, but it cannot come any more

	// Ceded is an event that the log has forgotten after it was left to JetStream here:
	// somebody else has it, or nobody.
	Ceded uint64 `json:"ceded,omitempty"`

	// Failed is what is held against events.
	Failed []failure `json:"failed,omitempty"`

	// Told says that a member knows what may be missing between two sequences.
	Told *span `json:"told,omitempty"`
}

// span is what lies between two sequences.
type span struct {
	After  uint64 `json:"after"`
	Before uint64 `json:"before"`
}

// eventEnded takes JetStream's advisory that a consumer has given up an event.
func (h *Hub) eventEnded(msg *nats.Msg) {
	consumer := strings.TrimPrefix(msg.Subject, endedAdvisory)
	var ended struct {
		Sequence uint64 `json:"stream_seq"`
	}
	if json.Unmarshal(msg.Data, &ended) != nil || ended.Sequence == 0 {
		return
	}
	h.forgotten(consumer, ended.Sequence)
}

// forgotten says that an event is here, which the log has forgotten, or else notes that.
func (h *Hub) forgotten(consumer string, seq uint64) {
	h.mu.RLock()
	g := h.byConsumer[consumer]
	h.mu.RUnlock()
	if g != nil && g.owns(seq) {
		h.tellEdges(consumer, word{Kept: seq})
		return
	}
	h.losses.add(consumer, seq, h.logOf(consumer), h.now())
}

// owns says whether an event is here.
func (g *Group) owns(seq uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rotation.own(seq)
}

// told notes that a member knows of a gap.
func (g *Group) told(gap event.Gap) {
	between := span{gap.After.Sequence, gap.Before.Sequence}
	g.hub.losses.remove(g.subject.name(), between.After, between.Before)
	g.hub.tellEdges(g.subject.name(), word{Told: &between})
}

// wordCame takes what an edge says.
func (h *Hub) wordCame(msg *nats.Msg) {
	consumer := strings.TrimPrefix(msg.Subject, wordPrefix)
	var w word
	if json.Unmarshal(msg.Data, &w) != nil {
		return
	}
	if w.Kept > 0 {
		h.losses.claim(consumer, w.Kept, h.now())
	}
	if w.Lost > 0 {
		h.losses.lose(consumer, w.Lost, h.logOf(consumer), h.now())
	}
	if w.Ceded > 0 {
		h.forgotten(consumer, w.Ceded)
	}
	if len(w.Failed) > 0 {
		h.failuresCame(consumer, w.Failed)
	}
	if w.Told != nil {
		h.losses.remove(consumer, w.Told.After, w.Told.Before)
	}
}

// logOf identifies the stream of a consumer, 0 if it is not known.
func (h *Hub) logOf(consumer string) event.Log {
	stream, _, _ := strings.Cut(consumer, ".")
	shard, ok := subject.ShardOfStream(stream)
	if !ok {
		return 0
	}
	return h.streams.Log(shard)
}

// tellEdges says something to all edges.
func (h *Hub) tellEdges(consumer string, w word) {
	body, err := json.Marshal(w) // numbers, which always encode
	if err == nil {
		err = h.nc.Publish(wordPrefix+consumer, body)
	}
	if err != nil {
		h.stats.unanswered.Inc()
	}
}
