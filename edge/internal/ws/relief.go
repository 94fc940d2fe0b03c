package ws

import (
	"slices"
	"time"
)

const (
	// drainGrace is how long sockets have to take a drainStep of the bound, while others wait
	// to write, before some are cut: healthy clients need no more than that. After patientFor
	// some are cut in any case.
	drainGrace = 100 * time.Millisecond
	drainStep  = 16
	patientFor = 250 * time.Millisecond

	// stuckFor is how long a socket may take next to nothing when the others need the memory
	// before long.
	stuckFor = time.Second

	// mostStuck is the longest time that makes a socket cost more: beyond it, bytes alone do.
	mostStuck = 2 * time.Second

	lookAtHeld = 5 * time.Millisecond

	// relievePause is the time between two looks at who holds what: the pollers free within
	// it what was cut.
	relievePause = 20 * time.Millisecond
)

// Unread is why a socket that does not read has to go at once.
type Unread string

// The reasons for Handler.OnUnread.
const (
	// UnreadMemory says that all connections hold too much, and this one has held most of
	// it for the longest time.
	UnreadMemory Unread = "memory"
	// UnreadReplies says that the client makes TLS answer and does not read the answers,
	// which cannot be left out as Pongs can.
	UnreadReplies Unread = "replies"
)

// mark is what all connections may hold before those that take nothing are cut, so that
// others need not wait for memory. Below it whoever waits goes on.
func (e *Engine) mark() int64 { return e.config.MaxHeld / 4 * 3 }

// time is how long the engine exists.
func (e *Engine) time() time.Duration { return time.Since(e.began) }

// checkHeld is called after a write of which nbio keeps something.
func (e *Engine) checkHeld() {
	if most := e.config.MaxHeld; most > 0 && e.Held() > e.mark() {
		e.signalHeld()
	}
}

// Press says that a writer waits for memory which stalled sockets hold. It does not block.
func (e *Engine) Press() {
	if e.config.MaxHeld == 0 {
		return
	}
	e.pressed.Store(true)
	e.signalHeld()
}

func (e *Engine) signalHeld() {
	select {
	case e.over <- struct{}{}:
	default:
	}
}

// guard keeps what connections hold inside its bound until the engine stops.
func (e *Engine) guard() {
	defer e.ticking.Done()
	for {
		select {
		case <-e.done:
			return
		case <-e.over:
			e.relax()
		}
	}
}

// relax gives sockets time to drain, cuts some if they do not, and returns when they hold
// little.
func (e *Engine) relax() {
	ticker := time.NewTicker(lookAtHeld)
	defer ticker.Stop()
	p := pressure{mark: e.mark(), limit: e.config.MaxHeld}
	for {
		held := e.Held()
		if held <= p.mark {
			e.pressed.Store(false)
			return
		}
		if excess, stuck := p.look(held, e.pressed.Load(), e.time()); excess > 0 {
			e.cut(excess, stuck)
		}
		select {
		case <-e.done:
			return
		case <-ticker.C:
		}
	}
}

// pressure decides how much must be freed. Time comes in as an argument.
type pressure struct {
	mark, limit int64

	waits    bool          // somebody waits for memory
	since    time.Duration // when that began, or some were cut last
	deadline time.Duration // of a drainStep
	least    int64         // that was held since then
	looked   time.Duration // when the holders were looked at last
}

// look says how much more than it may is held at now, and whether only sockets that have
// taken next to nothing for stuckFor have to go. pressed says that a writer waits.
func (p *pressure) look(held int64, pressed bool, now time.Duration) (excess int64, stuck bool) {
	if !pressed && held <= p.limit {
		p.waits = false
		if now-p.looked < drainGrace {
			return 0, true
		}
		p.looked = now
		return held - p.mark, true
	}
	switch {
	case !p.waits:
		p.waits, p.since, p.deadline, p.least = true, now, now+drainGrace, held
	case held < p.least-p.limit/drainStep:
		p.deadline, p.least = now+drainGrace, held
	}
	if now < min(p.deadline, p.since+patientFor) || now-p.looked < relievePause {
		return 0, false
	}
	p.looked = now
	return held - p.limit/2, false // below the mark, so that there is room for a while
}

// cut has those go that hold most for the longest time, until excess bytes are or will be
// free; stuck is that of victims.
func (e *Engine) cut(excess int64, stuck bool) {
	list, dying := e.holders.all(e.time())
	for _, h := range victims(list, excess-dying, stuck) {
		e.unread(h.conn, UnreadMemory)
	}
}

// victims chooses from list, which it sorts, who has to go so that excess bytes are free; with
// stuck only among those that have taken next to nothing for stuckFor and hold no less than
// the average: a phone that is out of reach for a second goes for nobody who hoards.
func victims(list []holding, excess int64, stuck bool) (out []holding) {
	slices.SortFunc(list, func(a, b holding) int { return compareCost(b, a) })
	sum := int64(0)
	for _, h := range list {
		sum += h.bytes
	}
	for _, h := range list {
		if excess <= 0 {
			break
		}
		if stuck && (h.stuck < stuckFor || h.bytes < sum/int64(len(list))) {
			continue
		}
		excess -= h.bytes
		out = append(out, h)
	}
	return out
}

// compareCost compares two holdings by their bytes and the time for which next to nothing of
// them was taken, up to mostStuck: a socket that never reads costs more than one that holds a
// few times as much and takes it, but not more than one that holds very much. drainGrace more, so that it counts also what those hold that have just taken
// something.
func compareCost(a, b holding) int {
	cost := func(h holding) float64 { return float64(h.bytes) * (min(h.stuck, mostStuck) + drainGrace).Seconds() }
	switch x, y := cost(a), cost(b); {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// unread tells the owner of c that it must go.
func (e *Engine) unread(c *Conn, why Unread) {
	defer e.rescue(c)
	c.owner.OnUnread(why)
	c.Cut()
}
