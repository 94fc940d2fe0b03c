package feed

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/shared/event"
)

// queued is the account of a reader whose own questions already wait, as many as there may be.
func queued(h *Hub, owner string) *account {
	a := h.accounts.open(owner)
	for range cap(a.asking) {
		a.asking <- struct{}{}
	}
	return a
}

func (p *flights) underWay() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.all)
}

func TestAReaderWhoseQuestionsWaitHoldsUpNoReplayOfOthers(t *testing.T) {
	const events = 600
	for name, sequence := range map[string]uint64{"a block is read for him": 0, "his place is still to come": 1_000_000} {
		t.Run(name, func(t *testing.T) {
			h, js, _ := startBudgetedHub(t, 0, roomy)
			log := fill(t, js, events)
			queued(h, "stranger")
			resumeFor(t, h, "stranger", nothing, event.Cursor{Log: log, Sequence: sequence})
			await(t, "his own replay is over", func() bool { return h.replaying() == 0 })
			honest := resumeFor(t, h, "honest", Filter{}, event.Cursor{Log: log, Sequence: 100})
			expect(t, honest, 101, events, 1)
		})
	}
}

func TestWhoAsksForAPlaceWaitsForNoStrangerWhoAsksForTheSame(t *testing.T) {
	h, js, _ := startBudgetedHub(t, 0, roomy)
	fill(t, js, 10)
	queued(h, "stranger")
	for name, since := range map[string]Since{
		"earliest": {kind: fromEarliest}, "a time": {kind: fromTime, at: time.Now().Add(-time.Hour)},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			s := newFakeSocket(-1)
			err := h.Attach(ctx, "app", Filter{}, since.For("stranger"), s, &s.Reader)
			if err == nil {
				s.Detach()
			}
			left <- err
		}()
		await(t, "he asks first", func() bool {
			h.mu.Lock()
			f := h.feeds["app"]
			h.mu.Unlock()
			if f == nil || len(left) > 0 {
				return len(left) > 0
			}
			return f.finding.underWay() > 0
		})
		began := time.Now()
		s := newFakeSocket(-1)
		if err := h.Attach(t.Context(), "app", Filter{}, since.For("honest"), s, &s.Reader); err != nil {
			t.Errorf("%s: an honest reader gets no place: %v", name, err)
		} else {
			s.Detach()
		}
		if took := time.Since(began); took > openTimeout/2 {
			t.Errorf("%s: an honest reader waited for %v", name, took)
		}
		cancel()
		if err := <-left; err != nil {
			t.Logf("%s: the stranger, who has given up: %v", name, err)
		}
	}
}

// startStuckFeed is an open feed of a hub without NATS, to whose stream no question goes.
func startStuckFeed(b Allowance) *Feed {
	h := New(Config{Buffers: roomy, Workers: 1, Held: func() int64 { return 0 }, Allowance: b}, nil, nil, zap.NewNop(), prometheus.NewRegistry())
	h.slots = []chan struct{}{make(chan struct{})}
	return newOpenFeed(h, "app")
}

func TestASearchThatNobodyWaitsForIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const searches = 1000
		f := startStuckFeed(Allowance{})
		ctx, cancel := context.WithCancel(t.Context())
		for i := range searches {
			since := Since{kind: fromTime, at: time.Unix(int64(i), 0)}.For("stranger")
			go func() { _, _ = f.find(ctx, since) }()
		}
		synctest.Wait()
		a := f.hub.accounts.all["stranger"]
		if n := f.finding.underWay(); n != searches || len(a.asking) != cap(a.asking) {
			t.Fatalf("%d searches are under way, want %d", n, searches)
		}
		cancel()
		synctest.Wait()
		if n := f.finding.underWay(); n != 0 || a.refs != 0 || len(a.asking) != 0 {
			t.Errorf("%d searches are under way that nobody waits for, %d questions, %d references", n, len(a.asking), a.refs)
		}
		f.hub.work.Wait()
	})
}

func TestTheAccountOfASearchIsKeptWhileItIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startStuckFeed(Allowance{})
		first, leave := context.WithCancel(t.Context())
		second, end := context.WithCancel(t.Context())
		go func() { _, _ = f.find(first, Since{kind: fromEarliest}.For("first")) }()
		synctest.Wait()
		go func() { _, _ = f.find(second, Since{kind: fromEarliest}.For("second")) }()
		synctest.Wait()
		if n := f.finding.underWay(); n != 1 {
			t.Errorf("%d searches are under way for one place", n)
		}
		a := f.hub.accounts.all["first"]
		leave()
		synctest.Wait()
		f.hub.accounts.forget(time.Now())
		if f.hub.accounts.all["first"] != a {
			t.Error("the account is forgotten that a question is put for")
		}
		end()
		synctest.Wait()
		f.hub.accounts.forget(time.Now())
		if n := len(f.hub.accounts.all); n != 0 {
			t.Errorf("%d accounts are known that say nothing", n)
		}
		f.hub.work.Wait()
	})
}

func TestAReaderOverItsBudgetWaitsBeforeAPlaceIsSearchedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := prometheus.NewCounter(prometheus.CounterOpts{Name: "over"})
		f := startStuckFeed(Allowance{EventsPerMinute: 6000, AtOnce: 1000, Over: over})
		a := f.hub.accounts.open("reader")
		for range 3 {
			f.hub.accounts.charge(a, 1000*eventCost, time.Now()) // it owes 10 s then
		}
		for i := range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
			_, err := f.find(ctx, Since{kind: fromTime, at: time.Unix(int64(i), 0)}.For("reader"))
			cancel()
			if refused := (*TooMuchRead)(nil); !errors.As(err, &refused) || refused.RetryAfter.Round(time.Second) != 10*time.Second {
				t.Fatalf("error %v, want that it has to wait for 10 s", err)
			}
		}
		if n := count(t, over); n != 100 {
			t.Errorf("%v refusals are counted, want 100", n)
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		done := make(chan error, 1)
		go func() { _, err := f.find(ctx, Since{kind: fromEarliest}.For("reader")); done <- err }()
		time.Sleep(9 * time.Second) // of the bubble's clock
		synctest.Wait()
		if n := f.finding.underWay(); n != 0 {
			t.Errorf("%d searches for a reader that is over its budget", n)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n := f.finding.underWay(); n != 1 {
			t.Errorf("%d searches %v later, when it has something again", n, time.Since(began))
		}
		cancel()
		if err := <-done; err == nil {
			t.Error("it found a place without an answer")
		}
		f.hub.work.Wait()
	})
}

func TestAReadGivesItsTurnUpThoughTheStreamDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startStuckFeed(Allowance{})
		f.chain.head = 100
		r := &Reader{}
		r.place(event.Cursor{Log: 7})
		x := &replay{reader: r, account: f.hub.accounts.open("reader"), cold: true}
		p := replayer{feed: f, waiting: []*replay{x}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		began := time.Now()
		if _, err := p.nextBlock(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 10*requestTimeout {
			t.Errorf("it ended after %v with %v", time.Since(began), err)
		}
		if n := f.hub.reads.total + f.hub.asks.total + len(f.hub.asks.waiting); n != 0 {
			t.Errorf("%d turns are left", n)
		}
	})
}
