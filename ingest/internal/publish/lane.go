package publish

import (
	"strconv"
	"sync"
	"time"
)

const (
	// What one lane may have under way, so that a single message is soon alone again
	// after a failure. maxAhead is well above flow, or acknowledgements would not come.
	maxAhead      = 4 * flow
	maxAheadBytes = 8 << 20

	// chunk is how many messages the lane's goroutine takes under one lock.
	chunk = 64

	pingAfter     = 250 * time.Millisecond // without progress: ask, for an answer may be lost
	answerTimeout = 2 * time.Second        // without progress: the attempt has failed
	settleTimeout = 250 * time.Millisecond // between a gap or error and the PubAck behind it

	firstBackoff    = 20 * time.Millisecond
	maxBackoff      = 2 * time.Second
	inFlightBackoff = 20 * time.Millisecond

	// maxBatchAge ends a batch that never runs empty: only its end tells sequences. The
	// next one begins a round trip later.
	maxBatchAge = 200 * time.Millisecond

	// lostAfter is how many attempts in a row must find nobody at the stream's subjects
	// before it is looked whether there is a stream: 0.6 s; a new leader takes less.
	lostAfter = 6
)

// lane is the state of one stream's publishing, without any input or output: its goroutine
// (Publisher.runLane) asks next what to do, and others report what happened.
//
// The messages not yet settled stand in queue, in order. The front of the queue is one of
//
//   - nothing sent: free;
//   - sent as batch: the first seq−acked messages are under way with an open fast batch;
//   - sent alone: the first message is under way with an ordinary publish.
//
// A message goes alone if it may have been published before: after a failed attempt, and
// as long as the stream has only known duplicates of its owner. Inside a batch a duplicate
// counts as stored even while its first copy is still in flight between the replicas, and
// that copy can be lost with the leader; alone it is refused with 10158 until it is safe.
//
// All methods need mu held, and may be called from any goroutine.
type lane struct {
	mu   sync.Mutex
	wake chan struct{} // holds a token when next may have something new to say

	queue fifo

	// fresh holds owners of which the stream has taken a message that it had not known.
	// They publish in order, so that it knows nothing of what they hand over after.
	fresh map[Owner]struct{}

	// gone holds forgotten owners with messages under way, until the attempt ends.
	gone map[Owner]struct{}

	again int // messages at the front that an earlier attempt sent

	attempt  uint64 // of which id is the text
	id       string
	kind     kind
	seq      uint64 // last of the batch sent
	acked    uint64 // last of the batch acknowledged
	bytes    int    // of the messages between them
	began    time.Time
	ending   bool   // the batch's last message is sent
	failing  string // reason for which the batch takes no more; the PubAck is due
	deadline time.Time
	ping     time.Time

	notBefore time.Time // back-off
	failures  int

	last   uint64 // sequence in the stream of what was stored last; 0: not known
	high   uint64 // the highest sequence that was
	quiet  *quiet
	ledger *ledger
	ahead  int // bytes that may be under way

	events events
}

type kind int

const (
	free kind = iota
	inBatch
	alone
)

// events are told what the lane does. They are called with its lock held.
type events interface {
	stored(n int)
	duplicate(n int)
	refused(m *Message, reason string)
	restarted(reason string, err error)

	// lost is told that the stream may be gone, or is another one.
	lost()
}

// todo is what the lane's goroutine has to do next.
type todo struct {
	messages []*Message // to send, the first with number seq of the batch
	id       string
	seq      uint64
	alone    bool      // messages holds one, to be sent without a batch
	end      bool      // the last message ends the batch; without messages: opEnd with number seq
	ping     bool      // send a ping with number seq
	until    time.Time // nothing to do before, except when woken; zero: until woken
}

// newLane makes a lane that remembers up to apps applications, of which each may hold share
// bytes of the stream; 0: any number.
func newLane(e events, apps int, share int64) *lane {
	ahead := int64(maxAheadBytes)
	if share > 0 {
		ahead = min(ahead, share/stepsOfShare) // what is under way comes on top
	}
	return &lane{
		quiet:  newQuiet(apps),
		ledger: newLedger(share, apps),
		ahead:  int(ahead),
		wake:   make(chan struct{}, 1),
		fresh:  make(map[Owner]struct{}),
		gone:   make(map[Owner]struct{}),
		events: e,
	}
}

func (l *lane) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// next decides what to do at now. buf is reused for the messages.
func (l *lane) next(now time.Time, buf []*Message) todo {
	if l.kind != free && l.failing == "" && l.ledger.purging && !now.Before(l.deadline) {
		l.deadline = now.Add(answerTimeout) // it ends, and then the stream answers
	}
	if l.kind != free && !now.Before(l.deadline) {
		reason := l.failing
		if reason == "" {
			reason = reasonTimeout
		}
		l.fail(now, reason, nil)
	}
	switch l.kind {
	case alone:
		return todo{until: l.deadline}
	case free:
		if l.queue.len() == 0 {
			return todo{}
		}
		if now.Before(l.notBefore) {
			return todo{until: l.notBefore}
		}
		if until, waits := l.ledger.waits(now, l.queue.at(0)); waits {
			return todo{until: until}
		}
		l.begin(now)
		if l.kind == alone {
			return todo{messages: append(buf[:0], l.queue.at(0)), id: l.id, alone: true}
		}
	}
	return l.more(now, buf)
}

// begin starts an attempt with the message at the front.
func (l *lane) begin(now time.Time) {
	l.attempt++
	l.id = strconv.FormatUint(l.attempt, 36)
	l.seq, l.acked, l.bytes, l.began, l.ending, l.failing = 0, 0, 0, now, false, ""
	l.kind = inBatch
	if l.again > 0 || !l.isFresh(l.queue.at(0)) {
		l.kind = alone
	}
	l.progress(now)
}

func (l *lane) isFresh(m *Message) bool {
	_, ok := l.fresh[m.Owner]
	return ok
}

func (l *lane) progress(now time.Time) {
	l.deadline = now.Add(answerTimeout)
	l.ping = now.Add(pingAfter)
}

// more takes what the open batch can take.
func (l *lane) more(now time.Time, buf []*Message) todo {
	under := int(l.seq - l.acked)
	if l.ending || l.failing != "" || under >= maxAhead {
		return l.waitOrPing(now)
	}
	t := todo{messages: buf[:0], id: l.id, seq: l.seq + 1}
	if under == 0 {
		l.progress(now)
	}
	if under == l.queue.len() || l.waits(now, under) {
		// What was to follow has been forgotten, or has to wait, so no message ends the batch.
		l.ending = true
		t.end = true
		return t
	}
	old := now.Sub(l.began) >= maxBatchAge
	for under < maxAhead && len(t.messages) < chunk && !t.end {
		m := l.queue.at(under)
		under++
		l.seq++
		l.bytes += m.size()
		t.messages = append(t.messages, m)
		// Ending with a message costs nothing and is replicated, so that followers
		// do not keep the batch; and its PubAck comes as soon as all is stored.
		t.end = old || under == l.queue.len() || l.bytes >= l.ahead || !l.isFresh(l.queue.at(under)) || l.waits(now, under)
	}
	l.ending = t.end
	return t
}

// waits says whether the message with i others before it has to wait for the next batch.
func (l *lane) waits(now time.Time, i int) bool {
	_, waits := l.ledger.waits(now, l.queue.at(i))
	return waits
}

func (l *lane) waitOrPing(now time.Time) todo {
	if l.failing == "" && !now.Before(l.ping) {
		l.ping = now.Add(pingAfter)
		return todo{ping: true, id: l.id, seq: l.seq}
	}
	if l.ping.Before(l.deadline) && l.failing == "" {
		return todo{until: l.ping}
	}
	return todo{until: l.deadline}
}

// purges notes that the stream is made to let events go, or is done with that.
func (l *lane) purges(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ledger.purging = on
}

// answered takes a server's answer to attempt id.
func (l *lane) answered(now time.Time, id string, a answer) {
	if id != l.id || l.kind == free {
		return // of an attempt that has been given up
	}
	defer l.wakeUp()
	if l.kind == alone {
		l.answeredAlone(now, a)
		return
	}
	switch {
	case a.Type == "ack":
		l.acknowledge(now, a.Seq)
	case a.Type == "gap":
		l.takesNoMore(now, reasonIncomplete)
	case a.Type == "err":
		l.takesNoMore(now, reasonError)
	case a.Error != nil:
		l.fail(now, reasonOf(a.Error), a.Error)
	case a.Type == "":
		l.acknowledge(now, a.Count)
		l.batchEnded(a)
		if l.ending && l.acked == l.seq {
			l.kind = free
			l.afterAttempt()
			return
		}
		reason := l.failing
		if reason == "" {
			reason = reasonIncomplete
		}
		l.fail(now, reason, nil)
	}
}

// acknowledge settles everything up to number seq of the batch.
func (l *lane) acknowledge(now time.Time, seq uint64) {
	if seq <= l.acked || seq > l.seq {
		return // a ping's answer, or an answer that cannot be
	}
	n := int(seq - l.acked)
	for range n {
		m := l.queue.pop()
		l.bytes -= m.size()
		l.acked++
		l.quiet.inBatch(now, m.Application, l.attempt, l.acked)
		l.ledger.inBatch(now, m, l.attempt, l.acked)
		m.Owner.Settled(m.Index, Stored)
	}
	l.events.stored(n)
	l.failures = 0
	if l.failing == "" {
		l.progress(now)
	}
}

// batchEnded learns sequences from a batch's PubAck, which tells that of the last message.
// Those before have the ones before it if the stream took nothing else meanwhile, and that
// is so if it has grown by the batch. (Only an ingest that lives on after its partitions
// were given away stores repeats within a batch, and its beacons could say too much.)
func (l *lane) batchEnded(a answer) {
	if a.Seq == 0 || a.Count == 0 || a.Count != l.acked {
		l.last = 0
		l.quiet.failed()
		l.ledger.ended(0, 0, false)
		return
	}
	contiguous := l.stored(a.Seq, a.Count)
	l.ledger.ended(a.Seq, a.Count, contiguous)
	l.quiet.ended(l.attempt, a.Seq, a.Count, contiguous)
}

// stored notes the sequence of the last of count messages that the stream has just taken,
// and says whether they surely follow upon ours before. One that is not higher than those
// before is of another stream.
func (l *lane) stored(sequence, count uint64) (contiguous bool) {
	contiguous = l.last > 0 && sequence == l.last+count
	if !contiguous {
		l.ledger.strange++
	}
	if sequence <= l.high {
		l.quiet.unsure()
		l.events.lost()
	}
	l.last, l.high = sequence, sequence
	return contiguous
}

// takesNoMore waits a little for the PubAck that tells how far the batch came.
func (l *lane) takesNoMore(now time.Time, reason string) {
	if l.failing == "" {
		l.failing = reason
		l.deadline = now.Add(settleTimeout)
	}
}

func (l *lane) answeredAlone(now time.Time, a answer) {
	m := l.queue.at(0)
	if a.Error != nil {
		if reason, ok := a.Error.forever(); ok {
			l.refuseFront(reason)
			return
		}
		if a.Error.ErrCode == errCodeInFlight {
			l.kind = free
			l.notBefore = now.Add(inFlightBackoff)
			l.again = max(l.again, 1)
			return
		}
		l.fail(now, reasonOf(a.Error), a.Error)
		return
	}
	l.queue.pop()
	if a.Duplicate {
		l.events.duplicate(1)
	} else {
		l.events.stored(1)
		l.stored(a.Seq, 1)
		l.ledger.alone(now, m, a.Seq)
		if !l.isGone(m) {
			l.fresh[m.Owner] = struct{}{}
		}
	}
	l.quiet.known(now, m.Application, a.Seq)
	l.frontDone(m, Stored)
}

// refuseFront settles the message at the front, which is alone, as one that can never be stored.
func (l *lane) refuseFront(reason string) {
	m := l.queue.pop()
	l.events.refused(m, reason)
	l.frontDone(m, Refused)
}

func (l *lane) frontDone(m *Message, o Outcome) {
	m.Owner.Settled(m.Index, o)
	l.again = max(l.again-1, 0)
	l.failures = 0
	l.kind = free
	l.afterAttempt()
}

// fail gives the attempt up. What is not acknowledged is sent again, after a pause.
func (l *lane) fail(now time.Time, reason string, err error) {
	if l.kind == free {
		return
	}
	if l.kind == alone {
		l.again = max(l.again, 1)
	} else {
		l.again = int(l.seq - l.acked) // it is 0 while a batch is open
	}
	l.kind = free
	l.notBefore = now.Add(min(firstBackoff<<min(l.failures, 10), maxBackoff))
	l.failures++
	l.last = 0
	l.quiet.failed()
	l.ledger.ended(0, 0, false)
	l.events.restarted(reason, err)
	if reason == reasonNoResponders && l.failures >= lostAfter {
		l.events.lost()
	}
	l.afterAttempt()
	l.wakeUp()
}

// afterAttempt drops what forgotten owners had under way.
func (l *lane) afterAttempt() {
	if len(l.gone) == 0 {
		return
	}
	l.again -= l.queue.remove(0, l.again, l.isGone, drop)
	l.queue.remove(l.again, l.queue.len(), l.isGone, drop)
	clear(l.gone)
}

func (l *lane) isGone(m *Message) bool {
	_, ok := l.gone[m.Owner]
	return ok
}

func drop(m *Message) { m.Owner.Settled(m.Index, Dropped) }

// forget drops what owner has handed over and the lane has not sent, at once; and what it
// has sent, when the attempt ends without an acknowledgement.
func (l *lane) forget(owner Owner) {
	delete(l.fresh, owner)
	sent := 0
	switch l.kind {
	case inBatch:
		sent = int(l.seq - l.acked)
	case alone:
		sent = 1
	}
	mine := func(m *Message) bool { return m.Owner == owner }
	if sent == 0 {
		l.again -= l.queue.remove(0, l.again, mine, drop)
		l.queue.remove(l.again, l.queue.len(), mine, drop)
	} else {
		if l.kind == alone {
			l.again = max(l.again, 1)
			l.again -= l.queue.remove(1, l.again, mine, drop)
			sent = l.again
		}
		l.queue.remove(sent, l.queue.len(), mine, drop)
		l.gone[owner] = struct{}{}
	}
	l.wakeUp()
}

// reasonOf is the metric's label for an error of a whole attempt.
func reasonOf(e *apiError) string {
	if e == errNoResponders {
		return reasonNoResponders
	}
	return reasonError
}
