package group

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"canopy/shared/event"
)

// schedules is how many schedules TestNoScheduleLosesAnEvent runs, unless
// CANOPY_TEST_SCHEDULES says otherwise.
const schedules = 2000

// The simulation has one consumer as JetStream would serve it, some edges with a rotation
// each, and clients. Every step of it is chosen by chance: an event is stored, a message
// arrives, a client reads, answers, stalls, closes or vanishes, an edge is cut off or
// dies, time passes. In every other schedule some events are poisoned: whoever reads one
// crashes, finds it too big, or falls asleep.
type simulation struct {
	t    *testing.T
	seed uint64
	rand *rand.Rand
	now  time.Duration
	room *room

	consumer simConsumer
	edges    []*simEdge
	clients  []*simClient

	read    map[uint64]int // by clients, by sequence
	poison  map[uint64]int // what a client does that reads an event
	gaps    map[uint64]int // read by clients, by the sequence of the event that is set aside
	allowed int            // repeats that the faults so far explain
	trace   []string
}

// simConsumer is what JetStream does for one durable push consumer.
type simConsumer struct {
	stored  uint64 // last sequence of the log
	next    uint64
	pending map[uint64]*simPending
	again   []uint64
	acked   map[uint64]bool
}

type simPending struct {
	deadline time.Duration
	edge     *simEdge
}

const (
	simAckWait = 20 * time.Second
	simMaxAck  = 32
	simLatency = 500 * time.Millisecond // the longest that a message stays on its way
)

// simEdge is an edge with its connection to NATS.
type simEdge struct {
	id        int
	rotation  rotation
	members   []*simClient
	connected bool
	dead      bool
	down      []simMessage // to the edge
	up        []simMessage // to NATS
	subs      int          // as NATS knows them
	known     failures     // what is held against events
}

type simMessage struct {
	at   time.Duration // when it was sent
	seq  uint64
	text string
}

// simClient is a client with its socket.
type simClient struct {
	sim     *simulation
	edge    *simEdge
	member  *Member
	inbox   []simFrame
	given   []uint64 // sequences that were written to it
	owed    int64
	stuck   bool // reads nothing for now
	asleep  bool // reads nothing until it is dropped
	gone    bool // closed or vanished: reads nothing ever again
	left    bool
	ended   int
	dropped bool
}

type simFrame struct {
	seq  uint64 // 0 for a Ping
	gap  bool   // it tells of the event, and is not it
	ping uint64
}

// what a poisoned event does to its reader
const (
	simCrash = iota + 1
	simTooBig
	simSleep
)

const (
	simTries  = 4
	simPoison = 20 // of so many events one is poisoned
)

func (c *simClient) Send([]byte, bool) { c.sim.t.Fatal("the simulation writes by itself") }
func (c *simClient) Owed() int64       { return c.owed }
func (c *simClient) Unanswering()      { c.dropped = true }
func (c *simClient) Detached()         { c.ended++ }

func newSimulation(t *testing.T, seed uint64) *simulation {
	s := &simulation{
		t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 1)), now: time.Second, room: &room{limit: 1 << 20},
		consumer: simConsumer{next: 1, pending: map[uint64]*simPending{}, acked: map[uint64]bool{}},
		read:     map[uint64]int{}, poison: map[uint64]int{}, gaps: map[uint64]int{},
	}
	for range 1 + s.rand.IntN(3) {
		s.addEdge()
	}
	return s
}

func (s *simulation) log(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf("%8s ", s.now)+fmt.Sprintf(format, args...))
}

func (s *simulation) fail(format string, args ...any) {
	s.t.Helper()
	for _, line := range s.trace[max(0, len(s.trace)-200):] {
		s.t.Log(line)
	}
	s.t.Fatalf("seed %d: %s", s.seed, fmt.Sprintf(format, args...))
}

func (s *simulation) addEdge() {
	window := 1 + s.rand.IntN(8)
	e := &simEdge{id: len(s.edges), connected: true, known: failures{of: map[string]map[uint64]remembered{}}}
	e.rotation = newRotation(limits{window: window, group: simMaxAck, share: 1 << 20, tries: simTries, ackWait: simAckWait}, s.room)
	e.rotation.describe = func(d *delivery) event.Gap { return describeGap("a", 1, d) }
	s.edges = append(s.edges, e)
}

func (s *simulation) join(e *simEdge) *simClient {
	c := &simClient{sim: s, edge: e}
	c.member = &Member{socket: c, tag: uint64(len(s.clients)), window: 1 + s.rand.IntN(4)}
	s.clients = append(s.clients, c)
	e.members = append(e.members, c)
	e.rotation.open(c.member)
	s.log("client %d joins edge %d", len(s.clients)-1, e.id)
	return c
}

// serve does what the rotation of e decides.
func (s *simulation) serve(e *simEdge) {
	if e.dead {
		return
	}
	for {
		e.rotation.assign(s.now, false)
		o := e.rotation.done
		e.rotation.done = outcome{}
		if o.empty() {
			break
		}
		s.carryOut(e, &o)
	}
	if e.connected {
		e.subs = e.rotation.subscriptions()
	}
}

func (s *simulation) carryOut(e *simEdge, o *outcome) {
	s.spread(e, o.failures)
	for _, gap := range o.aside {
		s.log("edge %d sets %d aside", e.id, gap.Event.Sequence)
		if s.poison[gap.Event.Sequence] == 0 {
			s.fail("%d is set aside, which harms nobody", gap.Event.Sequence)
		}
	}
	for _, gap := range o.untold {
		s.fail("nobody is told of %d", gap.Event.Sequence)
	}
	for text, replies := range map[string][]string{"+ACK": o.acks, "-NAK": o.naks, "+WPI": o.progress, "later": o.later} {
		for _, reply := range replies {
			seq, _ := strconv.ParseUint(reply, 10, 64)
			if e.connected || text == "+ACK" { // only acknowledgements wait for a connection
				e.up = append(e.up, simMessage{s.now, seq, text})
			}
		}
	}
	for _, w := range o.writes {
		c := w.member.socket.(*simClient)
		if c.ended > 0 {
			s.fail("something is written after the end")
		}
		for _, d := range o.events[w.from:w.to] {
			s.checkLease(e, d.seq)
			c.inbox = append(c.inbox, simFrame{seq: d.seq, gap: d.gap != nil})
			c.given = append(c.given, d.seq)
		}
		if w.ping != 0 {
			c.inbox = append(c.inbox, simFrame{ping: w.ping})
		}
		if s.rand.IntN(8) == 0 || c.stuck || c.gone {
			c.owed = 1
		}
	}
	for _, m := range o.silent {
		s.log("edge %d drops a silent client", e.id)
		s.faultOf(m.socket.(*simClient))
		m.socket.Unanswering()
		m.socket.(*simClient).gone = true
	}
	for _, m := range o.ended {
		m.socket.Detached()
	}
}

// spread has the edges know what one of them says of events. Some do not hear it.
func (s *simulation) spread(from *simEdge, list []failure) {
	if len(list) == 0 {
		return
	}
	for _, e := range s.edges {
		if e != from && (!from.connected || !e.connected || s.rand.IntN(8) == 0) {
			continue
		}
		e.known.note("", list, s.now)
		for _, f := range list {
			e.rotation.learn(f)
		}
	}
}

// checkLease fails if an edge gives out what JetStream may have given to another one.
func (s *simulation) checkLease(e *simEdge, seq uint64) {
	p := s.consumer.pending[seq]
	if p == nil {
		return // acknowledged, by a member that had it before
	}
	if p.edge == e && s.now > p.deadline {
		s.fail("edge %d gives out %d, whose time ended at %s", e.id, seq, p.deadline)
	}
}

// deliver lets JetStream send one event, if it may.
func (s *simulation) deliver() bool {
	c := &s.consumer
	weights, total := make([]int, len(s.edges)), 0
	for i, e := range s.edges {
		weights[i] = e.subs
		total += e.subs
	}
	if total == 0 {
		return false
	}
	var seq uint64
	switch {
	case len(c.again) > 0:
		seq, c.again = c.again[0], c.again[1:]
		if c.pending[seq] == nil {
			return true
		}
	case c.next <= c.stored && len(c.pending) < simMaxAck:
		seq = c.next
		c.next++
	default:
		return false
	}
	choice := s.rand.IntN(total)
	for i, e := range s.edges {
		if choice -= weights[i]; choice < 0 {
			c.pending[seq] = &simPending{s.now + simAckWait, e}
			if e.connected && !e.dead {
				e.down = append(e.down, simMessage{at: s.now, seq: seq})
			}
			s.log("%d to edge %d", seq, e.id)
			break
		}
	}
	return true
}

// answer takes what an edge says to JetStream.
func (s *simulation) answer(e *simEdge, m simMessage) {
	c := &s.consumer
	p := c.pending[m.seq]
	if p == nil {
		return
	}
	switch m.text {
	case "+ACK":
		if s.read[m.seq]+s.gaps[m.seq] == 0 {
			s.fail("%d is acknowledged, and no client has read it", m.seq)
		}
		delete(c.pending, m.seq)
		c.acked[m.seq] = true
	case "-NAK":
		if !slices.Contains(c.again, m.seq) {
			c.again = append(c.again, m.seq)
		}
	case "+WPI":
		p.deadline = s.now + simAckWait
	case "later":
		p.deadline = s.now + time.Second
	}
}

// flow moves one message between e and NATS.
func (s *simulation) flow(e *simEdge) bool {
	if e.dead {
		return false
	}
	if len(e.down) > 0 && s.rand.IntN(2) == 0 || len(e.up) == 0 {
		if len(e.down) == 0 {
			return false
		}
		m := e.down[0]
		e.down = e.down[1:]
		d := &delivery{seq: m.seq, data: []byte("x"), reply: strconv.FormatUint(m.seq, 10), doubt: e.known.against("", m.seq, 0)}
		if s.poison[m.seq] == simTooBig {
			d.data = make([]byte, 100)
		}
		e.rotation.take(d, s.now)
		s.serve(e)
		return true
	}
	if !e.connected {
		return false
	}
	m := e.up[0]
	e.up = e.up[1:]
	s.answer(e, m)
	return true
}

// reads lets a client read one frame, and answer if it is a Ping.
func (s *simulation) reads(c *simClient) bool {
	if c.stuck || c.gone || c.edge.dead || len(c.inbox) == 0 {
		return false
	}
	c.owed = 0
	f := c.inbox[0]
	c.inbox = c.inbox[1:]
	switch harm := s.poison[f.seq]; {
	case f.gap:
		s.gaps[f.seq]++
	case harm == simSleep:
		s.log("a client of edge %d sleeps on %d", c.edge.id, f.seq)
		c.stuck, c.asleep = true, true
	case harm != 0:
		s.log("a client of edge %d fails on %d", c.edge.id, f.seq)
		s.faultOf(c)
		how := Failed
		if harm == simTooBig {
			how = TooBig
		}
		c.gone, c.left = true, true
		c.edge.rotation.leave(c.member, how, s.now)
	case f.seq != 0:
		s.read[f.seq]++
	default:
		c.edge.rotation.pong(c.member, f.ping, s.now)
	}
	s.serve(c.edge)
	return true
}

// pass lets time pass, and with it everything that is due.
func (s *simulation) pass(d time.Duration) {
	for end := s.now + d; s.now < end; {
		s.now = min(end, s.now+100*time.Millisecond)
		for _, e := range s.edges {
			for s.flowsLate(e) {
				s.flow(e)
			}
			if !e.dead {
				e.rotation.tick(s.now, e.connected)
				s.serve(e)
			}
		}
		for seq := uint64(1); seq < s.consumer.next; seq++ {
			if p := s.consumer.pending[seq]; p != nil && s.now >= p.deadline && !slices.Contains(s.consumer.again, seq) {
				s.log("time is over for %d at edge %d", seq, p.edge.id)
				p.deadline = s.now + simAckWait
				s.consumer.again = append(s.consumer.again, seq)
			}
		}
	}
}

// flowsLate says whether a message has been on its way for too long.
func (s *simulation) flowsLate(e *simEdge) bool {
	if e.dead {
		return false
	}
	late := func(list []simMessage) bool { return len(list) > 0 && s.now-list[0].at >= simLatency }
	return late(e.down) || e.connected && late(e.up)
}

// leave ends a client: politely, by a close frame of its own, or without a word.
func (s *simulation) leave(c *simClient, how int) {
	if c.gone && how != 2 || c.left || c.edge.dead {
		return
	}
	switch how {
	case 0: // the edge closes it
		s.log("client leaves edge %d politely", c.edge.id)
		c.edge.rotation.leave(c.member, Dismissed, s.now)
		// It may go on reading, and answers within the grace or not.
		s.faultOf(c)
	case 1, 2: // it closes, or is cut
		s.log("client is cut off edge %d", c.edge.id)
		s.faultOf(c)
		c.gone = true
		c.edge.rotation.leave(c.member, []Departure{1: Gone, 2: Failed}[how], s.now)
	}
	c.left = true
	s.serve(c.edge)
}

// cut takes an edge's connection to NATS away: what is on the way to it is lost.
func (s *simulation) cut(e *simEdge) {
	if !e.connected || e.dead {
		return
	}
	s.log("edge %d is cut off", e.id)
	s.faultAt(e)
	e.connected, e.subs, e.down = false, 0, nil
	e.up = slices.DeleteFunc(e.up, func(m simMessage) bool { return m.text != "+ACK" || s.rand.IntN(2) == 0 })
}

func (s *simulation) kill(e *simEdge) {
	if e.dead {
		return
	}
	s.log("edge %d dies", e.id)
	s.faultAt(e)
	e.dead, e.connected, e.subs, e.down, e.up = true, false, 0, nil, nil
	for _, d := range e.rotation.held {
		s.room.give(len(d.data))
	}
}

// faultAt allows a repeat of everything that JetStream has given to e and that was not
// acknowledged.
func (s *simulation) faultAt(e *simEdge) {
	for _, p := range s.consumer.pending {
		if p.edge == e {
			s.allowed++
		}
	}
}

// faultOf allows a repeat of everything that c was given and that was not acknowledged.
func (s *simulation) faultOf(c *simClient) {
	for _, seq := range c.given {
		if s.consumer.pending[seq] != nil {
			s.allowed++
		}
	}
}

func (s *simulation) step() {
	e := s.edges[s.rand.IntN(len(s.edges))]
	var c *simClient
	if len(s.clients) > 0 {
		c = s.clients[s.rand.IntN(len(s.clients))]
	}
	switch n := s.rand.IntN(100); {
	case n < 15:
		s.consumer.stored++
		if s.seed%2 == 1 && s.rand.IntN(simPoison) == 0 {
			s.poison[s.consumer.stored] = simCrash + s.rand.IntN(simSleep)
		}
	case n < 40:
		s.deliver()
	case n < 55:
		s.flow(e)
	case n < 75 && c != nil:
		s.reads(c)
	case n < 83:
		s.pass(time.Duration(1+s.rand.IntN(120)) * time.Millisecond)
	case n < 85:
		s.pass(time.Duration(1+s.rand.IntN(12)) * time.Second)
	case n < 91 && !e.dead && !e.rotation.stopped && len(s.clients) < 12:
		s.join(e)
	case n < 93 && c != nil:
		c.stuck = !c.stuck || c.asleep
		if c.stuck && s.rand.IntN(2) == 0 {
			c.owed = 1 // Pongs to its own Pings
		}
	case n < 95 && c != nil:
		s.leave(c, s.rand.IntN(3))
	case n < 96:
		s.cut(e)
	case n < 98 && !e.dead && !e.connected:
		s.log("edge %d is back", e.id)
		e.connected = true
		s.serve(e)
	case n < 99 && len(s.edges) < 6:
		s.kill(e)
		s.addEdge()
	case n == 99 && !e.dead:
		s.log("edge %d drains", e.id)
		s.faultAt(e) // its members may be too slow to acknowledge
		e.rotation.stop()
		s.serve(e)
		s.addEdge()
	}
	s.serve(e)
}

// settle ends all faults, and lets everything arrive.
func (s *simulation) settle() {
	for _, e := range s.edges {
		e.connected = !e.dead
		s.serve(e)
	}
	for _, c := range s.clients {
		c.stuck = c.asleep
	}
	last := s.edges[len(s.edges)-1]
	if last.dead || last.rotation.stopped {
		s.addEdge()
		last = s.edges[len(s.edges)-1]
	}
	s.join(last)
	for limit := s.now + time.Duration(5+5*len(s.poison))*time.Minute; len(s.consumer.acked) < int(s.consumer.stored); {
		if s.now > limit {
			s.fail("%d of %d events acknowledged; pending %v", len(s.consumer.acked), s.consumer.stored, s.consumer.pending)
		}
		for moved := true; moved; {
			moved = s.deliver()
			for _, e := range s.edges {
				moved = s.flow(e) || moved
			}
			for _, c := range s.clients {
				moved = s.reads(c) || moved
			}
		}
		if !slices.ContainsFunc(last.members, func(c *simClient) bool { return !c.gone && !c.asleep && !c.left }) {
			s.join(last) // clients come back
		}
		s.pass(100 * time.Millisecond)
	}
}

// check looks at what must hold when everything has been acknowledged and everybody left.
func (s *simulation) check() {
	repeats := 0
	for seq := uint64(1); seq <= s.consumer.stored; seq++ {
		if told := s.gaps[seq] > 0; told != (s.poison[seq] != 0) {
			s.fail("%d harms %d, and that it is set aside was told %d times", seq, s.poison[seq], s.gaps[seq])
		}
		if s.poison[seq] != 0 {
			continue
		}
		if s.read[seq] == 0 {
			s.fail("%d was read by nobody", seq)
		}
		repeats += s.read[seq] - 1
	}
	if repeats > s.allowed {
		s.fail("%d repeats, and the faults explain %d", repeats, s.allowed)
	}
	for i, c := range s.clients {
		if c.edge.dead {
			continue
		}
		c.edge.rotation.leave(c.member, Gone, s.now)
		s.serve(c.edge)
		if c.ended != 1 {
			s.fail("client %d was told %d times that nothing more comes", i, c.ended)
		}
	}
	for _, e := range s.edges {
		if r := &e.rotation; !e.dead && (len(r.held) > 0 || len(r.back) > 0 || r.fresh.len() > 0 || len(r.suspects) > 0 || len(r.trials) > 0 || r.ready != 0 || r.members != 0) {
			s.fail("edge %d still holds something: %d held, %d back, %d fresh, %d ready, %d members",
				e.id, len(r.held), len(r.back), r.fresh.len(), r.ready, r.members)
		}
	}
	if n := s.room.bytes.Load(); n != 0 {
		s.fail("%d bytes are still counted", n)
	}
}

func TestNoScheduleLosesAnEvent(t *testing.T) {
	n := schedules
	if text := os.Getenv("CANOPY_TEST_SCHEDULES"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatalf("CANOPY_TEST_SCHEDULES: %v", err)
		}
	}
	repeats, poisoned, events := 0, 0, uint64(0)
	for seed := range uint64(n) {
		s := newSimulation(t, seed)
		for range 100 + s.rand.IntN(300) {
			s.step()
		}
		s.settle()
		s.check()
		events += s.consumer.stored
		poisoned += len(s.poison)
		for _, times := range s.read {
			repeats += times - 1
		}
	}
	if repeats == 0 {
		t.Error("no event was ever repeated: the faults did not happen")
	}
	if poisoned == 0 {
		t.Error("no event was poisoned")
	}
	t.Logf("%d schedules, %d events, %d of them poisoned, %d repeats", n, events, poisoned, repeats)
}
