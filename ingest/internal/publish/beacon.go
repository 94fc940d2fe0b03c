package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

	// Questions to the streams' leaders cost those 0.1 ms each, under their lock.
	questionsPerSecond = 200
	questionsWaiting   = 256
	questionTimeout    = time.Second
)

// beacons tells edges the last sequence of applications that have fallen quiet: core NATS
// may have lost the last event on its way to them, and no later one shows that. A beacon
// is a hint, "the last sequence is at least this", and costs nothing if it is lost.
//
// The sequences come from acknowledgements. Where those do not tell, since others publish
// to the same stream, its leader is asked, but never often: a question that there is no
// room for is left out, and its beacon with it.
//
// An application's beacon comes from the ingest that published its last event, also when
// the partition has been given away meanwhile: what it says stays true.
type beacons struct {
	p         *Publisher
	logs      []atomic.Uint64 // event.Log of each shard's stream; 0: not known
	before    []event.Log     // what known was told last, for the shard's one caller of it
	questions chan question
	first     int // lane whose turn it is
	buf       []beacon
}

type question struct {
	shard int
	about beacon
}

func newBeacons(p *Publisher) *beacons {
	return &beacons{
		p: p, logs: make([]atomic.Uint64, len(p.lanes)), before: make([]event.Log, len(p.lanes)),
		questions: make(chan question, questionsWaiting), buf: make([]beacon, 0, laneAtOnce),
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
		select {
		case b.questions <- question{shard, d}:
		default:
		}
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
	for limit.Wait(ctx) == nil {
		select {
		case <-ctx.Done():
			return
		case q := <-b.questions:
			b.answer(ctx, q)
		}
	}
}

func (b *beacons) answer(ctx context.Context, q question) {
	log := event.Log(b.logs[q.shard].Load())
	b.p.metrics.questions.Inc()
	sequence, err := b.lastSequence(ctx, q.shard, q.about.application)
	if err != nil || log == 0 {
		return // the next beacon of the application asks again
	}
	l := b.p.lanes[q.shard]
	l.mu.Lock()
	still := l.quiet.learned(q.about, sequence)
	l.mu.Unlock()
	if still && event.Log(b.logs[q.shard].Load()) == log {
		q.about.sequence = sequence
		b.say(q.shard, log, q.about)
	}
}

// lastSequence asks the stream's leader for the last sequence of an application.
func (b *beacons) lastSequence(ctx context.Context, shard int, application string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	ask, err := json.Marshal(map[string]string{"last_by_subj": subject.In(shard, application)})
	if err != nil {
		return 0, fmt.Errorf("ask for the last sequence: %w", err)
	}
	m, err := b.p.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+subject.Stream(shard), ask)
	if err != nil {
		return 0, fmt.Errorf("ask for the last sequence: %w", err)
	}
	var got struct {
		Message struct {
			Sequence uint64 `json:"seq"`
		} `json:"message"`
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &got); err != nil {
		return 0, fmt.Errorf("read the last sequence: %w", err)
	}
	if got.Error != nil {
		return 0, fmt.Errorf("ask for the last sequence: %w", got.Error)
	}
	if got.Message.Sequence == 0 {
		return 0, errors.New("read the last sequence: there is none")
	}
	return got.Message.Sequence, nil
}
