package group

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestOfWhatWasLeftToJetStreamTheOldestIsRemembered(t *testing.T) {
	var c ceded
	for seq := uint64(1000); seq > 0; seq-- {
		c.add(seq)
		c.add(seq)
	}
	c.add(maxCeded + 1)
	if all := c.takeBefore(math.MaxUint64); len(all) != maxCeded || all[0] != 1 || all[maxCeded-1] != maxCeded {
		t.Errorf("remembered %v", all)
	}
	if c.any() {
		t.Error("they were not forgotten")
	}
}

func TestAGroupWithoutMembersIsKeptWhileSomethingMayBeLost(t *testing.T) {
	for _, c := range []struct {
		name      string
		idle      time.Duration
		connected bool
		unsure    bool
		ceded     bool
		kept      bool
	}{
		{"its last messages come", linger - 1, true, false, false, true},
		{"for long enough", linger, true, false, false, false},
		{"it is not known yet that the edge is cut off", linger, true, false, true, true},
		{"that would be known", cededFor, true, false, true, false},
		{"cut off", cededFor, false, false, false, true},
		{"not looked at since", cededFor, true, true, true, true},
		{"nothing was left to JetStream", cededFor, true, true, false, false},
		{"for too long", doubtFor, false, true, true, false},
	} {
		g := &Group{seen: sight{unsure: c.unsure}}
		if c.ceded {
			g.rotation.ceded.add(7)
		}
		if kept := g.lingers(c.idle, c.connected); kept != c.kept {
			t.Errorf("%s: kept is %v", c.name, kept)
		}
	}
}

func TestWhatAnotherEdgeLeftToJetStreamIsLostOnlyIfItIsNotHere(t *testing.T) {
	h, g := streamOfOne(t, 0, func(*jetstream.StreamConfig) {})
	h.byConsumer[g.subject.name()] = g
	g.rotation.members, g.rotation.room, g.rotation.limits.share = 1, &room{limit: 1 << 20}, 1<<20
	g.rotation.take(&delivery{seq: 5, data: []byte("{}"), reply: "5"}, 0)
	first := func() uint64 { return h.losses.first(g.subject.name(), 1, h.now()+claimTime) }
	says := func(body string) { h.wordCame(&nats.Msg{Subject: wordPrefix + g.subject.name(), Data: []byte(body)}) }
	if says(`{"ceded":5}`); first() != 0 {
		t.Error("an event that is here counts as lost")
	}
	if g.rotation.held[5].lease != forever {
		t.Error("it would be handed back")
	}
	if says(`{"ceded":6}`); first() != 6 {
		t.Errorf("event %d is the first that is lost, want 6", first())
	}
}

func TestADoubtDoesNotMakeAConsumerAgainForNobody(t *testing.T) {
	h, g := streamOfOne(t, 0, func(*jetstream.StreamConfig) {})
	g.seen.unsure = true
	g.rotation.ceded.add(1)
	h.look(t.Context(), g)
	if g.doubts() || g.pins != 0 {
		t.Errorf("doubts: %v, %d pins", g.doubts(), g.pins)
	}
	if _, err := h.inspect(t.Context(), g); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("the consumer was made: %v", err)
	}
}
