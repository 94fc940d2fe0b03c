package publish

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/time/rate"

	"canopy/shared/event"
	"canopy/shared/subject"
)

const (
	// quietApps is how many applications all lanes together remember, with about 300
	// bytes each. Those beyond have no beacon.
	quietApps = 1 << 18

	// At most beaconsAtOnce beacons are sent in each beaconTick, 20,000 a second: when a
	// hundred thousand applications fall quiet at once, the last waits for 5 s.
	beaconTick    = 50 * time.Millisecond
	beaconsAtOnce = 1000
	laneAtOnce    = 64 // of them taken under one lock
)

// beacons tells edges the last sequence of applications that have fallen quiet: core NATS
// may have lost the last event on its way to them, and no later one shows that. A beacon
// is a hint, "the last sequence is at least this", and costs nothing if it is lost.
//
// The sequences come from acknowledgements. Where those do not tell, since others publish
// to the same stream, that is asked, about many applications at once.
//
// An application's beacon comes from the ingest that published its last event, also when
// the partition has been given away meanwhile: what it says stays true.
type beacons struct {
	p         *Publisher
	logs      []atomic.Uint64 // event.Log of each shard's stream; 0: not known
	before    []event.Log     // what known was told last, for the shard's one caller of it
	questions *questions
	first     int // lane whose turn it is
	buf       []beacon
}

func newBeacons(p *Publisher) *beacons {
	return &beacons{
		p: p, logs: make([]atomic.Uint64, len(p.lanes)), before: make([]event.Log, len(p.lanes)),
		questions: newQuestions(len(p.lanes), max(quietApps/len(p.lanes), 1)), buf: make([]beacon, 0, laneAtOnce),
	}
}

// known notes which log the shard's stream is. It is for one goroutine for each shard.
func (b *beacons) known(shard int, log event.Log) {
	if b.before[shard] != log {
		// What is remembered are sequences of another stream.
		l := b.p.lanes[shard]
		l.mu.Lock()
		l.last, l.high = 0, 0
		l.quiet.unsure()
		l.ledger.reset()
		l.mu.Unlock()
	}
	b.before[shard] = log
	b.logs[shard].Store(uint64(log))
}

// unknown notes that the shard's stream may have become another one. Nothing is said of
// it until known is called. It may be called with the lane's lock held.
func (b *beacons) unknown(shard int) { b.logs[shard].Store(0) }

// run sends what is due until ctx ends, and then what would be due next: a later ingest
// knows nothing of it.
func (b *beacons) run(ctx context.Context) {
	tick := time.NewTicker(beaconTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			b.tell(time.Now().Add(quietAfter[0]))
			return
		case now := <-tick.C:
			b.tell(now)
		}
	}
}

// tell sends what is due at now. While NATS is away it stays due.
func (b *beacons) tell(now time.Time) {
	room := beaconsAtOnce
	for range b.p.lanes {
		shard := b.first
		b.first = (b.first + 1) % len(b.p.lanes)
		log := event.Log(b.logs[shard].Load())
		for more := log != 0; more && b.p.nc.IsConnected(); {
			n := b.tellLane(now, shard, log)
			room -= n
			if room <= 0 {
				return
			}
			more = n == cap(b.buf)
		}
	}
}

// tellLane sends some of what is due of one shard, and says how many.
func (b *beacons) tellLane(now time.Time, shard int, log event.Log) int {
	l := b.p.lanes[shard]
	l.mu.Lock()
	due := l.quiet.next(now, b.buf[:0])
	l.mu.Unlock()
	defer clear(due)
	for _, d := range due {
		b.say(shard, log, d)
	}
	return len(due)
}

// say sends one beacon, or asks for its sequence first.
func (b *beacons) say(shard int, log event.Log, d beacon) {
	if d.sequence == 0 {
		b.questions.add(shard, d)
		return
	}
	m := nats.NewMsg(subject.Events(shard, d.application))
	m.Header[event.HeaderBeacon] = []string{event.Cursor{Log: log, Sequence: d.sequence}.String()}
	if err := b.p.nc.PublishMsg(m); err != nil {
		return // the connection has just gone, and edges see to what they missed
	}
	b.p.metrics.beacons.Inc()
}

// ask puts the questions, one at a time, until ctx ends.
func (b *beacons) ask(ctx context.Context) {
	limit := rate.NewLimiter(questionsPerSecond, 1)
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		shard, list, waiting := b.questions.take(time.Now())
		if len(list) > 0 {
			if limit.Wait(ctx) != nil {
				return
			}
			b.answer(ctx, shard, list)
			continue
		}
		due := pause.C
		if pause.Reset(beaconTick); !waiting {
			due = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-b.questions.added:
		case <-due:
		}
	}
}

// answer asks about list, and says what it learns.
func (b *beacons) answer(ctx context.Context, shard int, list []beacon) {
	log := event.Log(b.logs[shard].Load())
	b.p.metrics.questions.Inc()
	last, through, more, err := b.lastSequences(ctx, shard, list)
	if err != nil || log == 0 {
		b.questions.putBack(shard, triedAgain(list), time.Now().Add(questionPause))
		return
	}
	if len(last) == 0 {
		return // all has expired
	}
	var left, behind []beacon
	for _, d := range list {
		sequence, told := last[d.application]
		switch {
		case through < d.through:
			behind = append(behind, d) // the replica had not taken the event yet
		case told:
			b.learn(shard, log, d, sequence)
		case more:
			left = append(left, d)
		}
	}
	b.questions.putBack(shard, left, time.Time{})
	if len(behind) > 0 {
		b.questions.putBack(shard, triedAgain(behind), time.Now().Add(beaconTick))
	}
}

// learn says the sequence that the stream of that log has told for d.
func (b *beacons) learn(shard int, log event.Log, d beacon, sequence uint64) {
	l := b.p.lanes[shard]
	l.mu.Lock()
	still := l.quiet.learned(d, sequence)
	l.mu.Unlock()
	if still && event.Log(b.logs[shard].Load()) == log {
		d.sequence = sequence
		b.say(shard, log, d)
	}
}
