package feed

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// What it costs to read from the log for a socket, in grains of which an event has eventCost.
// Events are counted, those of others that come with them and those that the socket's filter
// passes over among them, and what takes as much processor time in the edge and the NATS server
// counts as so many.
const (
	// eventCost is one event that a batch brings. It costs once more for each eventBytes of it.
	eventCost  = 256
	eventBytes = 1 << 10

	// requestCost is one question to a stream.
	requestCost = 8 * eventCost

	// soughtCost is one event that the stream has to look for, since others' lie between.
	soughtCost = 8 * eventCost

	// vainFactor is how much more a block costs that was read for nothing, since the filters let
	// nothing of it pass: whoever asks for what he does not take has nothing else to bound him.
	vainFactor = 4

	// blockCost is a block in memory of which a filter lets nothing pass, however few its
	// events are. skipsPerGrain are the events that it passes over where something is left.
	blockCost     = eventCost / 2
	skipsPerGrain = blockEvents / blockCost
)

// refillEvery is how often is looked whether sockets may go on that wait for their accounts.
const refillEvery = 100 * time.Millisecond

// releases is how often in a second the sockets of an account go on that has used up its budget:
// seldom, so that they go on together, and not so seldom that others notice.
const releases = 5

// Allowance bounds how much one reader has read from the log, whoever opens sockets, however
// many they are, and how much all of them have.
type Allowance struct {
	// EventsPerMinute is how many events a reader may have read in a minute. 0 means any number.
	EventsPerMinute int
	// AtOnce is how many of these at once, after a while without. 0 means all.
	AtOnce int
	// EventsPerSecond is how many all readers together have read, and at once after a second
	// without; then they wait for their turns. 0 means any number.
	EventsPerSecond int
	// Over, if not nil, counts the sockets that had to wait, or were refused.
	Over prometheus.Counter
}

// account is what one reader has had of the log lately, over all its sockets.
type account struct {
	budget *rate.Limiter // in grains; nil: any number
	served atomic.Uint64 // when it had its last turn, in turns of all
	asking chan struct{} // has room for its questions that wait or are under way

	refs   int       // guarded by accounts.mu, like what follows
	parked list.List // of *replay, that wait for the budget, in their order
}

// accounts are those of all readers who have something read, or had lately. One that has its
// whole budget again and no sockets is forgotten: so there are no more of them than sockets,
// and those whose reads the streams have had time for.
//
// Any goroutine may call it. Its lock comes last.
type accounts struct {
	rate  rate.Limit    // grains a second; 0: any number
	burst int           // grains
	whole *rate.Limiter // of all readers, in grains; nil: any number
	over  prometheus.Counter
	turns atomic.Uint64
	wait  chan struct{} // has room for one: some socket waits

	mu     sync.Mutex
	all    map[string]*account
	short  map[*account]struct{} // those with sockets that wait
	parked int                   // sockets that wait
}

func newAccounts(b Allowance) *accounts {
	const minute = 60
	if b.AtOnce == 0 {
		b.AtOnce = b.EventsPerMinute
	}
	s := &accounts{
		rate: rate.Limit(float64(b.EventsPerMinute) * eventCost / minute), burst: b.AtOnce * eventCost,
		over: b.Over, wait: make(chan struct{}, 1),
		all: map[string]*account{}, short: map[*account]struct{}{},
	}
	if b.EventsPerSecond > 0 {
		s.whole = rate.NewLimiter(rate.Limit(b.EventsPerSecond*eventCost), b.EventsPerSecond*eventCost)
	}
	return s
}

// open gives the account of a reader. It stays until leave.
func (s *accounts) open(owner string) *account {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.all[owner]
	if a == nil {
		a = &account{asking: make(chan struct{}, replaysAtOnce)}
		if s.rate > 0 {
			a.budget = rate.NewLimiter(s.rate, s.burst)
		}
		a.served.Store(s.turns.Load()) // behind those that wait already
		s.all[owner] = a
	}
	a.refs++
	return a
}

// keep is open for one that the caller has from there.
func (s *accounts) keep(a *account) {
	s.mu.Lock()
	a.refs++
	s.mu.Unlock()
}

func (s *accounts) leave(a *account) {
	s.mu.Lock()
	a.refs--
	s.mu.Unlock()
}

// forget drops the accounts that say nothing any more.
func (s *accounts) forget(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for owner, a := range s.all {
		if a.refs == 0 && (a.budget == nil || a.budget.TokensAt(now) >= float64(s.burst)) {
			delete(s.all, owner)
		}
	}
}

// serve notes that a has its turn now.
func (s *accounts) serve(a *account) { a.served.Store(s.turns.Add(1)) }

// charge takes so many grains from a's budget, and from that of all. Neither is ever short of
// more than twice what it gives at once.
func (s *accounts) charge(a *account, grains int, now time.Time) {
	if a.budget != nil {
		take(a.budget, grains, now)
	}
	if s.whole != nil {
		take(s.whole, grains, time.Now())
	}
}

func take(budget *rate.Limiter, grains int, now time.Time) {
	if burst := budget.Burst(); budget.TokensAt(now) > -float64(burst) {
		budget.ReserveN(now, min(grains, burst))
	}
}

// rest is how long nothing more may be read for anybody.
func (s *accounts) rest() time.Duration {
	if s.whole == nil {
		return 0
	}
	owed := -s.whole.Tokens()
	return time.Duration(owed / float64(s.whole.Limit()) * float64(time.Second))
}

// isOver says whether a has used up its budget.
func (a *account) isOver(now time.Time) bool { return a.budget != nil && a.budget.TokensAt(now) <= 0 }

// park has x, which belongs to the caller and is claimed by nobody, wait until its account
// has something again.
func (s *accounts) park(x *replay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.left || x.place != nil {
		return
	}
	x.place = x.account.parked.PushBack(x)
	s.short[x.account] = struct{}{}
	s.parked++
	if !x.waited && s.over != nil {
		s.over.Inc()
	}
	x.waited = true
	select {
	case s.wait <- struct{}{}:
	default:
	}
}

// remove forgets x, whose socket replays no more.
func (s *accounts) remove(x *replay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x.left = true
	x.account.refs--
	if x.place != nil {
		s.unpark(x)
	}
}

// unpark takes x out of those that wait. mu is held.
func (s *accounts) unpark(x *replay) {
	x.account.parked.Remove(x.place)
	x.place = nil
	s.parked--
	if x.account.parked.Len() == 0 {
		delete(s.short, x.account)
	}
}

// release gives the sockets that may go on: all of an account that has enough again,
// so that those which stand at one place share what is read for them. more says that others
// still wait.
func (s *accounts) release(now time.Time) (list []*replay, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	enough := min(float64(s.rate)/releases, float64(s.burst)/2)
	for a := range s.short {
		if a.budget.TokensAt(now) < enough {
			continue
		}
		for a.parked.Len() > 0 {
			x := a.parked.Front().Value.(*replay)
			s.unpark(x)
			list = append(list, x)
		}
	}
	return list, s.parked > 0
}

func (s *accounts) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parked
}

// refill lets sockets go on that wait for their accounts. It rests while there are none.
func (h *Hub) refill(ctx context.Context) {
	ticker := time.NewTicker(refillEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.accounts.wait:
		}
		for more := true; more; {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			more = h.goOn()
		}
	}
}

// goOn has those served that may go on now, and says whether others wait.
func (h *Hub) goOn() (more bool) {
	list, more := h.accounts.release(h.now())
	for _, x := range list {
		x.reader.track.feed.replay(x.reader)
	}
	return more
}

type askerKey struct{}

// asker is whom a question to a stream is put for.
type asker struct {
	account *account // nil: all sockets
	ahead   bool     // others wait for the answer besides, so it goes before the account's others
}

// onAccountOf makes a context whose questions to streams are put for a, and wait behind others
// of a.
func onAccountOf(ctx context.Context, a *account) context.Context {
	return context.WithValue(ctx, askerKey{}, asker{account: a})
}

// aheadFor makes one whose questions a pays for, but which wait for none of his others: for what
// other readers wait for as well. There must be few of them at a time, whatever a does.
func aheadFor(ctx context.Context, a *account) context.Context {
	return context.WithValue(ctx, askerKey{}, asker{account: a, ahead: true})
}

func askerOf(ctx context.Context) asker {
	x, _ := ctx.Value(askerKey{}).(asker)
	return x
}

// accountOf is the account that a question is put for, nil for what all sockets need.
func accountOf(ctx context.Context) *account { return askerOf(ctx).account }
