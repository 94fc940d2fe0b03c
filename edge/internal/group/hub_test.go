package group

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"canopy/shared/config"
)

// of gives another group of g's hub.
func (g *Group) of(key Key) *Group { return newGroup(g.hub, key, key.subjects(1), g.hub.readers[0]) }

func TestRequestsAboutPublicReadersGroupsHoldUpNoMember(t *testing.T) {
	h, members := streamOfOne(t, 0, func(*jetstream.StreamConfig) {})
	for range cap(h.publicSlots) { // as if JetStream owed them an answer
		h.publicSlots <- struct{}{}
		h.slots <- struct{}{}
	}
	if _, err := h.inspect(t.Context(), members); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("a group of members is asked about beside many of public readers: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.inspect(ctx, members.of(Key{Application: "a", Public: true, Name: "g"})); !errors.Is(err, context.Canceled) {
		t.Errorf("one more of public readers: %v, want it to wait", err)
	}
	if n := len(h.slots); n != cap(h.publicSlots) {
		t.Errorf("%d slots are taken, want %d", n, cap(h.publicSlots))
	}
}

func TestGroupsOfPublicReadersHoldTheirEventsInAPartOfTheRoom(t *testing.T) {
	h, members := streamOfOne(t, 0, func(*jetstream.StreamConfig) {})
	public := members.of(Key{Application: "a", Public: true, Name: "g"})
	if members.rotation.room != h.room || public.rotation.room != h.publicRoom || h.publicRoom.within != h.room {
		t.Error("a group holds its events in another room than its own")
	}
}

func TestWhoeverWaitsForAGroupIsNotRefusedBecauseOfSomebodyElse(t *testing.T) {
	h, _ := streamOfOne(t, 0, func(*jetstream.StreamConfig) {})
	h.quota = newQuota(config.Limits{NewGroupsPerAddress: 1})
	greedy := Maker{Address: "greedy"}
	join := func(name string, by Maker) error {
		_, err := h.Join(t.Context(), Key{Application: "a", Public: true, Name: name}, by, nil)
		return err
	}
	if err := join("first", greedy); err != nil {
		t.Fatal(err)
	}
	for range cap(h.publicSlots) {
		h.publicSlots <- struct{}{}
	}
	refused, joined := make(chan error), make(chan error)
	pinned := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; {
			h.mu.RLock()
			g := h.groups[Key{Application: "a", Public: true, Name: "second"}]
			h.mu.RUnlock()
			if g != nil {
				g.mu.Lock()
				pins := g.pins
				g.mu.Unlock()
				if pins == n {
					return
				}
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d do not wait for the group", n)
			}
		}
	}
	go func() { refused <- join("second", greedy) }()
	pinned(1)
	go func() { joined <- join("second", Maker{Address: "honest"}) }()
	pinned(2)
	for range cap(h.publicSlots) {
		<-h.publicSlots
	}
	if err := <-refused; !errors.As(err, new(*TooManyNew)) {
		t.Errorf("who has made too many: %v", err)
	}
	if err := <-joined; err != nil {
		t.Errorf("who has made none, and waited for the same group: %v", err)
	}
	if err := join("second", greedy); err != nil {
		t.Errorf("a group that is there: %v", err)
	}
}

func TestTheGroupsOfAStreamAreCountedByWhoseTheyAre(t *testing.T) {
	const public, members = 70, 50
	h, g := streamOfOne(t, 0, func(c *jetstream.StreamConfig) { c.MaxConsumers = 140 })
	for n := range public + members {
		one := g.of(Key{Application: fmt.Sprint("app", n%3), Public: n < public, Name: fmt.Sprint(n)})
		if _, err := h.create(t.Context(), one, jetstream.ConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := h.count(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, n := range c.of {
		sum += n
	}
	if c.most != 140 || c.public != public || sum != public+members || len(c.of) != 6 {
		t.Errorf("counted %d public ones of %d in %d accounts, at most %d", c.public, sum, len(c.of), c.most)
	}
	if n := c.of[Key{Application: "app0", Public: true}.account()]; n != (public+2)/3 {
		t.Errorf("counted %d of the first application's public readers", n)
	}
	newcomer := g.of(Key{Application: "app3", Public: true, Name: "one more"})
	if _, err := h.allowOneMore(t.Context(), newcomer); !errors.Is(err, ErrTooManyPublic) {
		t.Errorf("one more public group in a stream of which they have half: %v", err)
	}
	if _, err := h.allowOneMore(t.Context(), g.of(Key{Application: "app3", Name: "one more"})); err != nil {
		t.Errorf("one more group of members: %v", err)
	}
}
