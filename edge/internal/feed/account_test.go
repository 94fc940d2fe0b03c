package feed

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/shared/config"
	"canopy/shared/event"
	"canopy/shared/natstest"
)

// stoppedClock moves only when it is told to.
type stoppedClock struct{ at atomic.Int64 }

func (c *stoppedClock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *stoppedClock) forward(d time.Duration) { c.at.Add(int64(d)) }

// startBudgetedHub runs a hub on a stream of its own, whose readers may have so many events a
// minute of a clock that stands.
func startBudgetedHub(t *testing.T, perMinute int, buffers config.Buffers) (*Hub, jetstream.JetStream, *stoppedClock) {
	t.Helper()
	nc := natstest.Start(t).Connect()
	js := natstest.Streams(t, nc, 1)
	clock := &stoppedClock{}
	clock.at.Store(time.Now().UnixNano())
	budget := Allowance{EventsPerMinute: perMinute, Over: prometheus.NewCounter(prometheus.CounterOpts{Name: "over"})}
	cfg := Config{Buffers: buffers, Workers: 2, Held: func() int64 { return 0 }, Allowance: budget}
	h := New(cfg, nc, nc, zap.NewNop(), prometheus.NewRegistry())
	h.now = clock.now
	run(t, h)
	return h, js, clock
}

// resumeFor opens a socket of a reader behind a place.
func resumeFor(t *testing.T, h *Hub, reader string, filter Filter, c event.Cursor) *fakeSocket {
	t.Helper()
	s := newFakeSocket(-1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	since := Since{kind: fromCursor, cursor: c}.For(reader)
	if err := h.Attach(ctx, "app", filter, since, s, &s.Reader); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Detach)
	s.Release()
	return s
}

// nothing is a filter that no event passes.
var nothing = Filter{Device: "none", ByDevice: true}

func TestAReaderOverItsBudgetWaitsAndOthersDoNot(t *testing.T) {
	const events, perMinute = 6000, 3000
	h, js, clock := startBudgetedHub(t, vainFactor*perMinute, roomy) // he takes none of them
	log := fill(t, js, events)
	greedy := resumeFor(t, h, "greedy", nothing, event.Cursor{Log: log})
	await(t, "the greedy one waits", func() bool { return h.accounts.waiting() == 1 })
	read := count(t, h.stats.replayed)
	if read < perMinute/2 || read > perMinute+blockEvents {
		t.Errorf("%v events were read with a budget of %d", read, perMinute)
	}
	const more = 20
	for range more { // it does not get more by coming again
		resumeFor(t, h, "greedy", nothing, event.Cursor{Log: log})
	}
	await(t, "all of them wait", func() bool { return h.accounts.waiting() == 1+more })
	if n := count(t, h.stats.replayed); n != read {
		t.Errorf("%v events were read for a reader that is over its budget", n-read)
	}
	other := resumeFor(t, h, "other", Filter{}, event.Cursor{Log: log, Sequence: events - 2000})
	expect(t, other, events-2000+1, events, 1)
	if n := h.accounts.waiting(); n != 1+more {
		t.Errorf("%d sockets wait, want %d", n, 1+more)
	}
	if n := count(t, h.config.Allowance.Over); n != 1+more {
		t.Errorf("%v sockets are counted that had to wait, want %d", n, 1+more)
	}
	h.reads.mu.Lock()
	if n := h.reads.total + len(h.reads.waiting); n != 0 {
		t.Errorf("those who wait hold %d turns", n)
	}
	h.reads.mu.Unlock()
	read = count(t, h.stats.replayed)
	clock.forward(20 * time.Second) // a third of its budget comes back, and it owes a little
	await(t, "it reads on", func() bool { return count(t, h.stats.replayed) > read+perMinute/6 })
	await(t, "it waits again", func() bool { return h.accounts.waiting() == 1+more })
	if n := count(t, h.stats.replayed) - read; n > perMinute/3+blockEvents {
		t.Errorf("%v events were read within 20 s, with a budget of %d a minute", n, perMinute)
	}
	clock.forward(time.Minute)
	await(t, "all have joined the live feed", func() bool { return h.replaying() == 0 })
	if greedy.whole() != 0 {
		t.Error("it got events that it did not want")
	}
}

func TestWhatASocketGetsThatHasToWaitIsWhole(t *testing.T) {
	const events, perMinute = 2000, 700
	h, js, clock := startBudgetedHub(t, perMinute, roomy)
	log := fill(t, js, events)
	s := resumeFor(t, h, "reader", Filter{}, event.Cursor{Log: log})
	waits := 0
	for s.Cursor().Sequence < events+50 {
		await(t, "it waits, or has all", func() bool { return h.accounts.waiting() == 1 || s.Cursor().Sequence == events+50 })
		if waits++; waits == 2 {
			publish(t, js, events+1, events+50) // while it is on its way
		}
		clock.forward(10 * time.Second)
	}
	if waits < 5 {
		t.Errorf("it had to wait %d times only", waits)
	}
	await(t, "it has joined the live feed", func() bool { return h.replaying() == 0 })
	publish(t, js, events+51, events+60)
	expectNumbers(t, s, 1, events+60)
}

func TestASocketThatWaitsForItsBudgetCanBeClosed(t *testing.T) {
	h, js, clock := startBudgetedHub(t, 600, roomy)
	log := fill(t, js, 2000)
	s := resumeFor(t, h, "reader", Filter{}, event.Cursor{Log: log})
	stays := resumeFor(t, h, "reader", Filter{}, event.Cursor{Log: log})
	await(t, "both wait", func() bool { return h.accounts.waiting() == 2 })
	at := s.Cursor()
	s.Detach()
	s.until(t, "it is told", func() bool { return s.detached == 1 })
	if n := h.accounts.waiting(); n != 1 {
		t.Errorf("%d sockets wait, want 1", n)
	}
	if c := s.Cursor(); c != at || c.Sequence == 0 {
		t.Errorf("its place is %v, and was %v", c, at)
	}
	stays.Detach()
	clock.forward(30 * time.Second)
	h.accounts.forget(clock.now())
	if n := len(h.accounts.all); n != 1 {
		t.Errorf("%d readers are known while the budget of one is not whole, want 1", n)
	}
	clock.forward(time.Hour)
	h.accounts.forget(clock.now())
	if n := len(h.accounts.all) + len(h.accounts.short) + h.accounts.waiting(); n != 0 {
		t.Errorf("%d readers or sockets are known that are none any more", n)
	}
}

func TestARetentionThatPassesASocketWhichWaitsIsTold(t *testing.T) {
	const events = 2000
	buffers := roomy
	buffers.ReplayBytes = 1 // so that nothing is kept
	h, js, clock := startBudgetedHub(t, 600, buffers)
	log := fill(t, js, events)
	s := resumeFor(t, h, "reader", Filter{}, event.Cursor{Log: log})
	await(t, "it waits", func() bool { return h.accounts.waiting() == 1 })
	had := int(s.Cursor().Sequence)
	expire(t, js, events-9)
	clock.forward(time.Minute)
	s.until(t, "the rest", func() bool { return s.whole() >= had+1+10 })
	s.mu.Lock()
	defer s.mu.Unlock()
	numbers := numbersOf(t, s.got.Bytes())
	if len(numbers) != had+11 || numbers[had] != 0 || numbers[had+1] != events-9 {
		t.Errorf("%d messages came, of which the first after %d are %v, want a gap and the last ten", len(numbers), had, numbers[had:])
	}
}

func TestWhoWaitsForTheStreamDoesNotWaitForThoseWhoseEventsAreInMemory(t *testing.T) {
	const events, half = 600, 300
	h, js, _ := startBudgetedHub(t, 0, roomy)
	log := fill(t, js, events)
	resumeFor(t, h, "greedy", nothing, event.Cursor{Log: log, Sequence: half})
	await(t, "the second half is in memory", func() bool { return h.replaying() == 0 })
	p := replayer{feed: h.feeds["app"]}
	defer p.endTurn()
	at := func(owner string, sequence uint64, cold bool) {
		r := &Reader{}
		r.place(event.Cursor{Log: log, Sequence: sequence})
		p.waiting = append(p.waiting, &replay{reader: r, account: h.accounts.open(owner), cold: cold})
	}
	at("greedy", half, false)
	at("honest", 0, true)
	for n := range 6 {
		b, err := p.nextBlock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want := []uint64{0, half}[n%2]; b.after != want {
			t.Errorf("block %d begins behind %d, want %d", n, b.after, want)
		}
	}
}

func TestNothingIsReadForSocketsThatAreGone(t *testing.T) {
	h, js, _ := startBudgetedHub(t, 0, roomy)
	log := fill(t, js, 2000)
	other := h.reads.ask(0, h.accounts.open("other")) // so that they wait for their turn
	for range 50 {
		s := resumeFor(t, h, "reader", nothing, event.Cursor{Log: log})
		await(t, "it waits for its turn", func() bool {
			h.reads.mu.Lock()
			defer h.reads.mu.Unlock()
			return len(h.reads.waiting) == 1
		})
		s.Detach()
	}
	h.reads.end(other)
	await(t, "nobody waits any more", func() bool {
		h.reads.mu.Lock()
		defer h.reads.mu.Unlock()
		return h.reads.total+len(h.reads.waiting) == 0
	})
	if n := count(t, h.stats.replayReads); n != 0 {
		t.Errorf("%v reads for sockets that are gone", n)
	}
}

func TestAThousandSocketsOfOneReaderPayForWhatTheyShareOnce(t *testing.T) {
	const events, sockets = 2000, 1000
	h, js, _ := startBudgetedHub(t, 2*events, roomy)
	log := fill(t, js, events)
	list := make([]*fakeSocket, sockets)
	for i := range list {
		list[i] = resumeFor(t, h, "fleet", Filter{}, event.Cursor{Log: log})
	}
	for _, s := range list {
		expect(t, s, 1, events, 1)
	}
	if n := count(t, h.config.Allowance.Over); n != 0 {
		t.Errorf("%v of them had to wait", n)
	}
}

func TestSocketsThatWaitAtOnePlaceGoOnTogether(t *testing.T) {
	const events, sockets = 2000, 200
	buffers := roomy
	buffers.ReplayBytes = 1 // so that nothing is kept for those that come later
	h, js, clock := startBudgetedHub(t, 900, buffers)
	log := fill(t, js, events)
	resumeFor(t, h, "fleet", nothing, event.Cursor{Log: log})
	await(t, "the reader is over its budget", func() bool { return h.accounts.waiting() == 1 })
	list := make([]*fakeSocket, sockets)
	for i := range list {
		list[i] = resumeFor(t, h, "fleet", Filter{}, event.Cursor{Log: log})
	}
	await(t, "all wait", func() bool { return h.accounts.waiting() == 1+sockets })
	before := count(t, h.stats.replayed)
	for h.replaying() > 0 {
		await(t, "all wait, or have all", func() bool { return h.accounts.waiting() == h.replaying() })
		clock.forward(5 * time.Second)
	}
	for _, s := range list {
		expect(t, s, 1, events, 1)
	}
	if read := count(t, h.stats.replayed) - before; read > 2*events {
		t.Errorf("%v events were read for %d sockets that want the same %d", read, sockets, events)
	}
}

func TestAReaderIsNeverShortOfMoreThanAMinuteGivesBack(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := newAccounts(Allowance{EventsPerMinute: 10_000})
	a := s.open("reader")
	for range 1_000_000 {
		s.charge(a, requestCost, now)
	}
	if now = now.Add(61 * time.Second); a.isOver(now) {
		t.Error("it waits for longer than a minute")
	}
	if b := newAccounts(Allowance{}).open("reader"); b.isOver(now) {
		t.Error("it is over a budget that is off")
	}
}

func TestReadersShareTheCostOfABlockTheyAllStandIn(t *testing.T) {
	h := New(Config{Buffers: roomy, Workers: 1, Held: func() int64 { return 0 }, Allowance: Allowance{EventsPerMinute: 1000}}, nil, nil, zap.NewNop(), prometheus.NewRegistry())
	now := time.Unix(1_000_000, 0)
	h.now = func() time.Time { return now }
	p := replayer{feed: newOpenFeed(h, "app")}
	for i, owner := range []string{"a", "a", "b", "elsewhere"} {
		r := &Reader{}
		r.place(event.Cursor{Log: 7, Sequence: uint64(10 + 5*i)})
		p.waiting = append(p.waiting, &replay{reader: r, account: h.accounts.open(owner)})
	}
	b := blockOf(10, 25)
	p.charge(onAccountOf(t.Context(), p.waiting[3].account), event.Cursor{Log: 7, Sequence: 10}, b, 100*eventCost)
	for i, want := range []float64{950, 950, 950, 1000} {
		if got := p.waiting[i].account.budget.TokensAt(now) / eventCost; got != want {
			t.Errorf("reader %d has %v events left, want %v", i, got, want)
		}
	}
	p.charge(onAccountOf(t.Context(), p.waiting[3].account), event.Cursor{Log: 7, Sequence: 10}, nil, 100*eventCost)
	if got := p.waiting[3].account.budget.TokensAt(now) / eventCost; got != 900 {
		t.Errorf("a read that has failed leaves its reader %v events, want 900", got)
	}
}

func TestToShareOutABlockTakesAsLongForEachReaderHoweverManyThereAre(t *testing.T) {
	h := New(Config{Buffers: roomy, Workers: 1, Held: func() int64 { return 0 }}, nil, nil, zap.NewNop(), prometheus.NewRegistry())
	b := blockOf(10, 25)
	takes := func(readers int) time.Duration {
		p := replayer{feed: newOpenFeed(h, "app")}
		for range readers {
			r := &Reader{}
			r.place(event.Cursor{Log: 7, Sequence: 10})
			p.waiting = append(p.waiting, &replay{reader: r, account: &account{}})
		}
		best := time.Hour
		for range 10 {
			began := time.Now()
			p.charge(onAccountOf(t.Context(), p.waiting[0].account), event.Cursor{Log: 7, Sequence: 10}, b, eventCost)
			best = min(best, time.Since(began))
		}
		if len(p.payers) != readers {
			t.Fatalf("%d of %d readers pay", len(p.payers), readers)
		}
		return best
	}
	const few, more = 1000, 40
	one, all := takes(few), takes(more*few)
	t.Logf("%d readers: %v, %d: %v", few, one, more*few, all)
	if all > 10*more*one { // shared out one by one it is hundreds of times as long
		t.Errorf("%d readers take %v, and %d times fewer %v", more*few, all, more, one)
	}
}
