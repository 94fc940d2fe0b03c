package feed

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"canopy/shared/event"
)

// world is a stream, a lossy network and an edge's chain, moved by a seeded schedule.
type world struct {
	t      *testing.T
	rng    *rand.Rand
	chain  chain
	room   *room
	stored []message // everything in the stream, of this application
	flying []message // republished, not delivered yet
	output []uint64
	ended  bool   // nothing is published any more
	last   uint64 // sequence of the stream, other applications' too
}

func (w *world) publish() {
	w.last += 1 + w.rng.Uint64N(3)
	m := message{sequence: w.last, json: make([]byte, 10)}
	if n := len(w.stored); n > 0 {
		m.previous = w.stored[n-1].sequence
	}
	w.stored = append(w.stored, m)
	switch w.rng.IntN(6) {
	case 0: // lost
	case 1: // twice
		w.flying = append(w.flying, m, m)
	default:
		w.flying = append(w.flying, m)
	}
	if w.rng.IntN(20) == 0 && len(w.flying) > 1 { // late
		i := w.rng.IntN(len(w.flying))
		w.flying[i], w.flying[len(w.flying)-1] = w.flying[len(w.flying)-1], w.flying[i]
	}
}

func (w *world) deliver() {
	if len(w.flying) == 0 {
		return
	}
	m := w.flying[0]
	w.flying = w.flying[1:]
	if w.chain.live(m) {
		w.output = append(w.output, m.sequence)
	}
}

// repair does one step of what Feed.readOn does.
func (w *world) repair() {
	for {
		m, ok := w.chain.drain()
		if !ok {
			break
		}
		w.output = append(w.output, m.sequence)
	}
	if !w.chain.held {
		return
	}
	from, target := max(w.chain.head, w.chain.verified)+1, w.chain.target
	for range 1 + w.rng.IntN(3) {
		i := slices.IndexFunc(w.stored, func(m message) bool { return m.sequence >= from })
		if i < 0 {
			if !w.ended && w.rng.IntN(2) == 0 {
				w.publish() // between the leader's answer and what the edge makes of it
				w.deliver()
			}
			w.chain.skip(target)
			return
		}
		m := w.stored[i]
		if w.chain.stored(m) {
			w.output = append(w.output, m.sequence)
		}
		from = m.sequence + 1
	}
}

func (w *world) askLeader() {
	w.chain.hold()
	if n := len(w.stored); n > 0 {
		w.chain.target = max(w.chain.target, w.stored[n-1].sequence)
	}
}

func (w *world) run(steps int) {
	for range steps {
		switch w.rng.IntN(10) {
		case 0, 1, 2, 3:
			w.publish()
		case 4, 5, 6:
			w.deliver()
		case 7, 8:
			if w.chain.held {
				w.repair()
			}
		case 9:
			if w.rng.IntN(10) == 0 {
				w.askLeader() // a new leader, a reconnect, or the client dropped something
			}
		}
	}
	w.flying, w.ended = nil, true
	w.askLeader()
	for i := 0; w.chain.held; i++ {
		if i > 10*steps {
			w.t.Fatal("the hold never ends")
		}
		w.repair()
	}
}

func newWorld(t *testing.T, seed uint64, roomBytes int64) *world {
	r := &room{limit: roomBytes}
	return &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), room: r, chain: chain{room: r}}
}

func TestChainGivesEveryStoredMessageOnceAndInOrder(t *testing.T) {
	schedules := 20_000
	if testing.Short() {
		schedules = 2_000
	}
	faults := 0
	for seed := range uint64(schedules) {
		w := newWorld(t, seed, int64(seed%5)*4*int64(message{json: make([]byte, 10)}.size())) // from no room at all to plenty
		w.run(60)
		var want []uint64
		for _, m := range w.stored {
			want = append(want, m.sequence)
		}
		if !slices.Equal(w.output, want) {
			t.Fatalf("seed %d: got %v, want %v", seed, w.output, want)
		}
		if n := w.room.used(); n != 0 {
			t.Fatalf("seed %d: %d bytes are still taken", seed, n)
		}
		if len(want) > 0 && w.chain.verified > 0 {
			faults++
		}
	}
	if faults < schedules/2 {
		t.Fatalf("only %d of %d schedules needed the stream", faults, schedules)
	}
}

func TestChainGoesOnWhereTheStreamHasForgotten(t *testing.T) {
	r := &room{limit: 1 << 20}
	c := chain{room: r, head: 10}
	if c.live(message{sequence: 20}) || !c.held || c.target != 20 {
		t.Fatalf("a message whose predecessor is unknown was taken: %+v", c)
	}
	c.skip(20) // the leader has nothing from 11 on: 20 itself has expired since
	if m, ok := c.drain(); !ok || m.sequence != 20 {
		t.Fatalf("drain gave %d %v, want 20", m.sequence, ok)
	}
	if _, ok := c.drain(); ok || c.held {
		t.Fatalf("the hold did not end: %+v", c)
	}
	if !c.live(message{sequence: 30, previous: 20}) {
		t.Fatal("the next message was not taken")
	}
}

func TestChainHoldsWhileTheTargetIsNotReached(t *testing.T) {
	c := chain{room: &room{}, head: 5} // no room: every live message is let go
	c.hold()
	c.live(message{sequence: 9, previous: 5, json: []byte(`{}`)})
	if _, ok := c.drain(); ok || !c.held {
		t.Fatal("the hold ended although 9 was let go")
	}
	c.stored(message{sequence: 9})
	if _, ok := c.drain(); ok || c.held || c.head != 9 {
		t.Fatalf("the hold did not end at 9: %+v", c)
	}
}

func TestWhatComesAgainDuringAHoldIsKeptOnce(t *testing.T) {
	r := &room{limit: 1 << 20}
	c := chain{room: r, head: 5}
	c.hold()
	m := message{sequence: 9, previous: 7, json: []byte(`{"n":9}`)}
	c.live(m)
	once := r.used()
	for range 1000 {
		c.live(m)
		c.live(message{sequence: 7, previous: 5, json: []byte(`{"n":7}`)}) // late: the stream has it
	}
	if r.used() != once || len(c.waiting) != 1 {
		t.Errorf("%d messages wait with %d bytes, want one with %d", len(c.waiting), r.used(), once)
	}
	if c.target != 9 {
		t.Errorf("the target is %d", c.target)
	}
	c.stored(message{sequence: 7})
	if m, ok := c.drain(); !ok || m.sequence != 9 {
		t.Errorf("drain gave %d %v, want 9", m.sequence, ok)
	}
	if _, ok := c.drain(); ok || c.held || r.used() != 0 {
		t.Errorf("the hold did not end, or %d bytes are still taken", r.used())
	}
}

func TestWhatWaitsIsChargedWithItsHeaders(t *testing.T) {
	const header = 60 << 10
	f := newTestFeed(t, roomy)
	f.hub.room.limit = 4 * header
	f.chain.hold()
	f.repairing = true
	for n := range 100 {
		m := nats.NewMsg("events.0.app")
		m.Header.Set("Nats-Sequence", fmt.Sprint(n+10))
		m.Header.Set(event.HeaderChannel, strings.Repeat("x", header))
		m.Data = []byte(`{"n":1}`)
		f.receive(m)
	}
	if n := len(f.chain.waiting); n == 0 || n > 4 {
		t.Errorf("%d messages with headers of %d bytes wait in %d", n, header, f.hub.room.limit)
	}
	if f.chain.target != 109 {
		t.Errorf("the target is %d", f.chain.target)
	}
}
