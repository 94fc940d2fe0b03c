package publish

import (
	"math"
	"strings"
	"time"

	"canopy/shared/config"
)

const (
	// An application holds no less than a step below its share when it has been evicted,
	// and no more than a step above it, but for what is under way.
	stepsOfShare = 16

	grainsOfStep = 8

	// recordOverhead is what nats-server's file store counts for an event beside subject,
	// header and body: lengths, sequence, time and checksum (fileStoreMsgSizeRaw).
	recordOverhead = 4 + 8 + 8 + 2 + 4 + 8

	// maxHold bounds for how long events wait for the audit of an application of theirs.
	// It is reached where a stream takes events but answers no questions, and then the next
	// ones do not wait until it does.
	maxHold = 2 * time.Second

	auditBackoff    = 250 * time.Millisecond
	maxAuditBackoff = 30 * time.Second

	// maxGrowth bounds how many times faster than by our own events an application is
	// believed to grow.
	maxGrowth = 16
)

// ledger keeps the accounts of one lane's applications, so that none holds more than a
// share of the stream. Without a share it keeps none.
//
// All methods need the lane's lock.
type ledger struct {
	share, step, grain int64
	limit              int // accounts
	accounts           map[string]*account
	queue              []*account // whose audits are due
	proofs             []*account // to be counted, while others are audited
	open               []*account // with events in the open batch
	last               *account   // the one of the last event, mostly that of the next one
	wake, prove        chan struct{}
	holding            int    // accounts that are held
	strange            uint64 // times that the stream has grown by others' events
	inStream           int64  // bytes of all, when the stream was asked last
	since              int64  // bytes of own events since
	purging            bool   // so the stream answers nobody, for longer than usual
}

// unknownBytes stand for a stream that has not been asked: it may be full.
const unknownBytes = math.MaxInt64 / 4

func newLedger(share int64, limit int) *ledger {
	step := max(share/stepsOfShare, 1)
	return &ledger{
		share: share, step: step, grain: max(step/grainsOfStep, 1), limit: limit,
		accounts: make(map[string]*account), wake: make(chan struct{}, 1), prove: make(chan struct{}, 1),
		inStream: unknownBytes,
	}
}

// shareOf is how many bytes an application may hold in its stream, 0 for any number.
func shareOf(cfg config.Ingest) int64 {
	if cfg.Retention.Share <= 0 || cfg.Retention.Share >= 100 {
		return 0
	}
	return max(streamBytes(cfg)/100*int64(cfg.Retention.Share), 1)
}

// target is what is left to an application that is found to hold trigger or more.
func (g *ledger) target() int64  { return g.share - g.step/4*3 }
func (g *ledger) trigger() int64 { return g.share - g.step/4 }

// inBatch counts m, which the stream has just taken, at a place in the open batch of attempt.
func (g *ledger) inBatch(now time.Time, m *Message, attempt, place uint64) {
	a := g.account(m)
	if a == nil {
		return
	}
	if a.attempt != attempt {
		a.attempt = attempt
		g.open = append(g.open, a)
	}
	g.stored(now, a, m, place)
}

// alone counts m, which the stream has just taken, as sequence.
func (g *ledger) alone(now time.Time, m *Message, sequence uint64) {
	if a := g.account(m); a != nil {
		g.stored(now, a, m, sequence)
	}
}

// ended notes what the end of the open batch tells: sequence is that of its event number
// count, 0 if it tells nothing, and all of them follow upon each other if contiguous.
func (g *ledger) ended(sequence, count uint64, contiguous bool) {
	for i, a := range g.open {
		a.ended(sequence, count, contiguous, g.grain)
		g.open[i] = nil
	}
	g.open = g.open[:0]
}

// account gives that of m's application, nil if there is to be none.
func (g *ledger) account(m *Message) *account {
	if g.share == 0 || m.Application == "" {
		return nil
	}
	if a := g.last; a != nil && a.application == m.Application {
		return a
	}
	a := g.accounts[m.Application]
	if a == nil {
		if len(g.accounts) >= g.limit {
			g.sweep()
		}
		// Both may be parts of something large.
		a = &account{application: strings.Clone(m.Application), subject: strings.Clone(m.Subject), due: g.step / 2}
		g.accounts[a.application] = a
	}
	g.last = a
	return a
}

func (g *ledger) stored(now time.Time, a *account, m *Message, place uint64) {
	bytes := int64(m.size() + len(m.Subject) + recordOverhead)
	a.stored(bytes, g.grain, place)
	a.seen = now
	g.since += bytes
	switch {
	case !a.auditing:
		g.ask(now, a)
	case !a.held && a.tries == 0 && a.open >= g.step && g.nearShare(a):
		a.held, a.heldUntil = true, now.Add(maxHold)
		g.holding++
	}
}

// nearShare says whether a may hold its share. None does in a stream that holds less.
func (g *ledger) nearShare(a *account) bool {
	return a.bytes() >= g.target() || a.through == 0 && g.inStream+g.since >= g.target()
}

// asked notes how many bytes the stream holds.
func (g *ledger) asked(inStream int64) { g.inStream, g.since = inStream, 0 }

// ask has a audited if that is due.
func (g *ledger) ask(now time.Time, a *account) {
	if a.grown < a.due || now.Before(a.notBefore) {
		return
	}
	a.auditing, a.open = true, 0
	g.queue = append(g.queue, a)
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// waits says whether m has to wait for an audit of its application, and until when at most.
func (g *ledger) waits(now time.Time, m *Message) (until time.Time, waits bool) {
	if g.holding == 0 {
		return time.Time{}, false
	}
	a := g.accounts[m.Application]
	if a == nil || !a.held || !now.Before(a.heldUntil) {
		return time.Time{}, false
	}
	return a.heldUntil, true
}

// take gives an account whose audit is due, nil if there is none.
func (g *ledger) take() *account {
	if len(g.queue) == 0 {
		g.queue = nil
		return nil
	}
	a := g.queue[0]
	g.queue = g.queue[1:]
	return a
}

// proveLater has everything of a counted, while others are audited: our events up to sequence
// to have been acknowledged.
func (g *ledger) proveLater(a *account, to, strange uint64) {
	if a.proof != nil {
		return
	}
	a.proof = &proof{to: to, strange: strange, newer: a.newer}
	g.proofs = append(g.proofs, a)
	select {
	case g.prove <- struct{}{}:
	default:
	}
}

// takeProof gives an account that is to be counted, nil if there is none.
func (g *ledger) takeProof() *account {
	if len(g.proofs) == 0 {
		g.proofs = nil
		return nil
	}
	a := g.proofs[0]
	g.proofs = g.proofs[1:]
	return a
}

// proved has a audited again, with what was found.
func (g *ledger) proved(now time.Time, a *account) {
	a.proof.done = true
	if a.due = 0; !a.auditing && g.accounts[a.application] == a {
		g.ask(now, a)
	}
}

// isFull says whether the stream is about to let events go that are in the way of new ones.
func (g *ledger) isFull(has held) bool {
	return has.config.MaxBytes > 0 && has.bytes >= has.config.MaxBytes-g.share/4
}

// needsProof says whether what is known of a has to be compared with the stream itself,
// because others have published to it, or events of before may be there.
func (g *ledger) needsProof(a *account, estimate, inStream int64) bool {
	if inStream <= g.target() || a.through > 0 && a.strange == g.strange {
		return false
	}
	return estimate >= g.trigger() || a.through == 0 && a.total >= 2*g.step
}

// end notes that a has been audited, and when that is due again: the nearer it is to its
// share, and the faster others' events make it grow, the sooner.
func (g *ledger) end(now time.Time, a *account, grown, estimate, rest int64) {
	growth, known := 1.0, a.rest > 0
	if grown > 0 && known {
		growth = min(max(float64(estimate-a.rest)/float64(grown), 1), maxGrowth)
	}
	a.rest = rest
	room := g.trigger() - min(rest, g.inStream) // it cannot hold more than the stream does
	a.due = int64(float64(max(g.step/4, min(room, g.step/2), room/2)) / growth)
	if !known || a.through == 0 && g.inStream >= g.target() {
		a.due = min(a.due, g.step) // what there is of before has to be counted soon
	}
	if a.proof != nil && a.proof.done {
		a.due = 0 // it was made meanwhile
	}
	a.tries, a.notBefore = 0, time.Time{}
	g.release(now, a)
}

// failed notes that a's audit has failed. Its events do not wait for the next one.
func (g *ledger) failed(now time.Time, a *account) {
	a.due = 0
	a.notBefore = now.Add(min(auditBackoff<<min(a.tries, 10), maxAuditBackoff))
	a.tries++
	g.release(now, a)
}

func (g *ledger) release(now time.Time, a *account) {
	a.auditing = false
	if a.held {
		a.held = false
		g.holding--
	}
	if g.accounts[a.application] == a {
		g.ask(now, a)
	}
}

// sweep makes room. What it forgets is learned again by an audit, when the application has
// published half a step more; so those that have more than a grain stay, if possible.
func (g *ledger) sweep() {
	g.last = nil
	for name, a := range g.accounts {
		if a.bytes() < g.grain && !a.busy() {
			delete(g.accounts, name)
		}
	}
	for name, a := range g.accounts {
		if len(g.accounts) <= g.limit/2 {
			return
		}
		if !a.busy() {
			delete(g.accounts, name)
		}
	}
}

// reset forgets everything: the stream is another one.
func (g *ledger) reset() {
	for _, a := range g.accounts {
		a.held = false
	}
	g.accounts = make(map[string]*account)
	g.queue, g.proofs, g.open, g.last, g.holding = nil, nil, nil, nil, 0
	g.asked(unknownBytes)
}
