package feed

import (
	"context"
	"sync"
	"time"
)

// turns lets only so many at a time do something with a stream, and with all streams. Of
// those that wait the one goes first in which the account takes part that had its last turn
// longest ago: so readers take turns, however many of theirs wait. Those that go ahead, since
// others wait for them besides, take turns with all the rest.
//
// Any goroutine may call it. Its lock comes last.
type turns struct {
	accounts  *accounts
	each, all int                  // how many at a time, of one stream and of all
	rest      func() time.Duration // for how long nobody may go; nil: 0

	mu      sync.Mutex
	under   map[int]int // turns under way, by shard
	total   int         // of them
	waiting map[*turn]struct{}
	ahead   map[int]bool // whether the last turn went ahead, by shard
	came    uint64
	resting bool // a timer will go on
}

// turn is one that waits, or that has its turn until it ends.
type turn struct {
	shard   int
	ahead   bool
	number  uint64
	granted chan *account // has room for one: whose turn it is

	who  map[*account]struct{} // guarded by turns.mu, like what follows
	open bool                  // it has been granted
}

func newTurns(a *accounts, each, all int) *turns {
	return &turns{
		accounts: a, each: each, all: all,
		under: map[int]int{}, waiting: map[*turn]struct{}{}, ahead: map[int]bool{},
	}
}

// ask has a turn wait on account of who. It must end.
func (t *turns) ask(shard int, who ...*account) *turn {
	return t.add(&turn{shard: shard}, who...)
}

func (t *turns) add(x *turn, who ...*account) *turn {
	x.granted, x.who = make(chan *account, 1), make(map[*account]struct{}, len(who))
	for _, a := range who {
		x.who[a] = struct{}{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.came++
	x.number = t.came
	t.waiting[x] = struct{}{}
	t.grant()
	return x
}

// join lets x wait on account of one more.
func (t *turns) join(x *turn, who *account) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !x.open {
		x.who[who] = struct{}{}
	}
}

// end gives up x, whether it was granted or not.
func (t *turns) end(x *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !x.open {
		delete(t.waiting, x)
		return
	}
	t.total--
	if t.under[x.shard]--; t.under[x.shard] == 0 {
		delete(t.under, x.shard)
	}
	t.grant()
}

// grant begins as many turns as there may be. mu is held.
func (t *turns) grant() {
	for t.total < t.all && len(t.waiting) > 0 {
		if t.rests() {
			return
		}
		var first claim
		for x := range t.waiting {
			if t.under[x.shard] >= t.each {
				continue
			}
			for a := range x.who {
				c := claim{x, a, a.served.Load(), x.ahead != t.ahead[x.shard]}
				if first.turn == nil || c.before(first) {
					first = c
				}
			}
		}
		if first.turn == nil {
			return
		}
		next := first.turn
		delete(t.waiting, next)
		next.open = true
		t.total++
		t.under[next.shard]++
		t.ahead[next.shard] = next.ahead
		t.accounts.serve(first.who)
		next.granted <- first.who
	}
}

// claim is what a turn can say for itself that waits.
type claim struct {
	turn   *turn
	who    *account
	served uint64
	kind   bool // the last one of its stream was of the other kind: ahead, or not
}

func (c claim) before(d claim) bool {
	switch {
	case c.kind != d.kind:
		return c.kind
	case c.served != d.served:
		return c.served < d.served
	default:
		return c.turn.number < d.turn.number
	}
}

// rests says whether nobody may go now, and has grant called when somebody may. mu is held.
func (t *turns) rests() bool {
	if t.resting {
		return true
	}
	if t.rest == nil {
		return false
	}
	rest := t.rest()
	if rest <= 0 {
		return false
	}
	t.resting = true
	time.AfterFunc(rest, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.resting = false
		t.grant()
	})
	return true
}

// do runs f in a turn of a, which waits behind a's own questions before it does so for one:
// however many there are, few are looked at here.
func (t *turns) do(ctx context.Context, shard int, a *account, f func() error) error {
	select {
	case a.asking <- struct{}{}:
		defer func() { <-a.asking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return t.run(ctx, t.ask(shard, a), f)
}

// doAhead runs f in a turn of a that goes ahead: it waits for none of a's own questions, but
// for one that is under way. There must be few of them at a time, of one account or of all.
func (t *turns) doAhead(ctx context.Context, shard int, a *account, f func() error) error {
	return t.run(ctx, t.add(&turn{shard: shard, ahead: true}, a), f)
}

func (t *turns) run(ctx context.Context, x *turn, f func() error) error {
	defer t.end(x)
	select {
	case <-x.granted:
		return f()
	case <-ctx.Done():
		return ctx.Err()
	}
}
