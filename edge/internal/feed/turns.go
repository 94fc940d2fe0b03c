package feed

import (
	"context"
	"sync"
	"time"
)

// turns lets only so many at a time do something with a stream, and with all streams. Of
// those that wait the one goes first in which the account takes part that had its last turn
// longest ago: so readers take turns, however many of theirs wait.
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
	came    uint64
	resting bool // a timer will go on
}

// turn is one that waits, or that has its turn until it ends.
type turn struct {
	shard   int
	number  uint64
	granted chan *account // has room for one: whose turn it is

	who  []*account // guarded by turns.mu, like what follows
	open bool       // it has been granted
}

func newTurns(a *accounts, each, all int) *turns {
	return &turns{accounts: a, each: each, all: all, under: map[int]int{}, waiting: map[*turn]struct{}{}}
}

// ask has a turn wait on account of who. It must end.
func (t *turns) ask(shard int, who ...*account) *turn {
	x := &turn{shard: shard, granted: make(chan *account, 1), who: who}
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
	if n := len(x.who); !x.open && (n == 0 || x.who[n-1] != who) {
		x.who = append(x.who, who)
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
		var next *turn
		var who *account
		var since uint64
		for x := range t.waiting {
			if t.under[x.shard] >= t.each {
				continue
			}
			for _, a := range x.who {
				served := a.served.Load()
				if next == nil || served < since || served == since && x.number < next.number {
					next, who, since = x, a, served
				}
			}
		}
		if next == nil {
			return
		}
		delete(t.waiting, next)
		next.open = true
		t.total++
		t.under[next.shard]++
		t.accounts.serve(who)
		next.granted <- who
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
	x := t.ask(shard, a)
	defer t.end(x)
	select {
	case <-x.granted:
		return f()
	case <-ctx.Done():
		return ctx.Err()
	}
}
