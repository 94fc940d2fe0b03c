package session

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/authz"
)

// recheckAll asks about all sessions and waits for the answers.
func (r *Registry) recheckAll(ctx context.Context) {
	var asking errgroup.Group
	asking.SetLimit(askers)
	r.recheck(ctx, &asking)
	_ = asking.Wait()
}

// source answers whatever ask says, and has changed when it is told to.
type source struct {
	ask func(user string) bool

	mu      sync.Mutex
	changed chan struct{}
	ended   map[string]Closing // what came of it, by user
}

func (c *source) StillMayRead(_ context.Context, p authn.Principal, _ string, _ time.Time) (authz.Access, time.Time, error) {
	if !c.ask(p.User) {
		return authz.None, time.Now(), nil
	}
	return authz.Member, time.Now(), nil
}

func (c *source) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *source) change() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *source) end(_ context.Context, reasons map[*access]Closing) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for one, reason := range reasons {
		c.ended[one.user] = reason
	}
	return len(reasons)
}

// has reports whether the access of user has ended.
func (c *source) has(user string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended[user] == AccessWithdrawn
}

// watching runs do beside a registry that asks a source, in a bubble of its own.
func watching(t *testing.T, ask func(user string) bool, do func(r *Registry, c *source)) {
	synctest.Test(t, func(t *testing.T) {
		c := &source{ask: ask, changed: make(chan struct{}), ended: make(map[string]Closing)}
		r := newTestRegistry(nil, c)
		ctx, stop := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { r.watch(ctx, c.end) })
		synctest.Wait() // the first look finds nobody
		do(r, c)
		stop()
		running.Wait()
	})
}

func TestAnAnswerEndsItsSessionsWhileOthersAreStillWaitedFor(t *testing.T) {
	watching(t, func(user string) bool {
		if user == "slow" {
			time.Sleep(7 * time.Second)
		}
		return false
	}, func(r *Registry, c *source) {
		r.added(t, "app", signedIn("slow"))
		r.added(t, "app", signedIn("quick"))
		c.change()
		synctest.Wait()
		if !c.has("quick") || c.has("slow") {
			t.Errorf("the one whose answer came has ended: %v, the other: %v", c.has("quick"), c.has("slow"))
		}
		r.added(t, "app", signedIn("late"))
		c.change()
		time.Sleep(endPause)
		synctest.Wait()
		if !c.has("late") {
			t.Error("a later change waits for an answer to an earlier one")
		}
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if !c.has("slow") {
			t.Error("the slow answer ends nothing")
		}
	})
}

func TestAccessThatChangesWhileAnAnswerIsUnderWayIsAskedForAgain(t *testing.T) {
	asked := 0
	watching(t, func(string) bool {
		asked++
		first := asked == 1 // this one is decided before the change
		time.Sleep(time.Second)
		return first
	}, func(r *Registry, c *source) {
		r.added(t, "app", signedIn("alice"))
		c.change()
		time.Sleep(500 * time.Millisecond)
		c.change()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if !c.has("alice") || asked != 2 {
			t.Errorf("after %d questions access has ended: %v", asked, c.has("alice"))
		}
	})
}

func TestTheOldestAnswersAreAskedForFirst(t *testing.T) {
	const principals = 10 * askers
	var mu sync.Mutex
	var order []string
	watching(t, func(user string) bool {
		mu.Lock()
		order = append(order, user)
		mu.Unlock()
		time.Sleep(time.Second)
		return true
	}, func(r *Registry, c *source) {
		start := time.Now()
		for n := range principals {
			n = n * 7 % principals // mixed
			s := r.New("app", signedIn(strconv.Itoa(n)))
			if !r.Add(s, principals, start.Add(time.Duration(n)*time.Millisecond)) {
				t.Fatal("the session was not added")
			}
		}
		c.change()
		time.Sleep(principals / askers * 2 * time.Second)
	})
	if len(order) != principals {
		t.Fatalf("%d questions, want %d", len(order), principals)
	}
	for n, user := range order {
		place, err := strconv.Atoi(user)
		if err != nil {
			t.Fatal(err)
		}
		if place/askers != n/askers { // those that are asked at the same time have no order
			t.Fatalf("question %d was about the answer in place %d", n, place)
		}
	}
}
