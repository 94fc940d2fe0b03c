package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// turns is how many events in a row must go to the two members in turn. A member that is
// slow for a moment, as on a busy machine, may be passed over before.
const turns = 10

// tryResume takes a client away from events that go on, and wants them all.
func tryResume(ctx context.Context, t trial) error {
	if t.client.comesBack {
		return t.comeBack(ctx)
	}
	c := t.call()
	s, err := t.start(ctx, c)
	if err != nil {
		return err
	}
	last, err := s.inSequence(ctx, someEvents, 1)
	s.stop()
	if err != nil {
		return err
	}
	number, err := t.sentBeyond(ctx, last)
	if err != nil {
		return err
	}
	c.since = last.Cursor
	if s, err = t.start(ctx, c); err != nil {
		return err
	}
	defer s.stop()
	first, err := s.next(ctx)
	if err != nil {
		return err
	}
	if first.ID != strconv.Itoa(number+1) {
		return fmt.Errorf("event %s came behind the cursor of event %d", first.ID, number)
	}
	_, err = s.inSequence(ctx, missedEvents, 1)
	return err
}

// sentBeyond waits until some events are in Kafka behind this one, whose number it gives.
func (t trial) sentBeyond(ctx context.Context, last event) (int, error) {
	number, err := strconv.Atoi(last.ID)
	if err != nil {
		return 0, fmt.Errorf("read number of event: %w", err)
	}
	for t.feed.acknowledged.Load() < int64(number+missedEvents) {
		select {
		case <-ctx.Done():
			return 0, errors.New("the feed has stopped")
		case <-time.After(pollEvery):
		}
	}
	return number, nil
}

// comeBack cuts the connection of a client that comes back by itself.
func (t trial) comeBack(ctx context.Context) error {
	between, err := newRelay(t.stack.Edge)
	if err != nil {
		return err
	}
	defer between.close()
	c := t.call()
	c.edge = between.addr()
	s, err := t.start(ctx, c)
	if err != nil {
		return err
	}
	defer s.stop()
	last, err := s.inSequence(ctx, someEvents, 1)
	if err != nil {
		return err
	}
	if n := between.cut(); n != 1 {
		return fmt.Errorf("%d connections were cut, want 1", n)
	}
	number, err := t.sentBeyond(ctx, last)
	if err != nil {
		return err
	}
	for want := number + 1; want <= number+2*missedEvents || between.connections() < 2; want++ {
		e, err := s.next(ctx)
		if err != nil {
			return err
		}
		if e.ID != strconv.Itoa(want) {
			return fmt.Errorf("event %s came behind event %d over a broken connection", e.ID, want-1)
		}
	}
	if n := between.connections(); n != 2 {
		return fmt.Errorf("the client opened %d connections, want 2", n)
	}
	return nil
}

// tryGroup wants the events of a group to go to its two members in turn, each once.
func tryGroup(ctx context.Context, t trial) error {
	c := t.call()
	c.group = "the " + t.client.name + "s"
	var members [2]*session
	for i := range members {
		var err error
		if members[i], err = t.start(ctx, c); err != nil {
			return err
		}
		defer members[i].stop()
	}
	owner := make(map[int]int)
	for {
		var e event
		var who int
		var open bool
		select {
		case e, open = <-members[0].events:
		case e, open = <-members[1].events:
			who = 1
		case <-ctx.Done():
			return fmt.Errorf("no %d events in turn among %d", turns, len(owner))
		}
		if !open {
			_, err := members[who].next(ctx)
			return err
		}
		number, err := strconv.Atoi(e.ID)
		if err != nil {
			return fmt.Errorf("not a numbered event: %+v", e)
		}
		if _, twice := owner[number]; twice {
			return fmt.Errorf("event %d came twice", number)
		}
		owner[number] = who
		if inTurn(owner, number) >= turns {
			return nil
		}
	}
}

// inTurn is how many events around this one went to the members in turn, none missing.
func inTurn(owner map[int]int, number int) int {
	count := 1
	for _, step := range []int{-1, 1} {
		for n := number; ; n += step {
			if next, ok := owner[n+step]; !ok || next == owner[n] {
				break
			}
			count++
		}
	}
	return count
}
