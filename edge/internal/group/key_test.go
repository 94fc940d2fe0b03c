package group

import (
	"strings"
	"testing"

	"canopy/shared/event"

	"github.com/nats-io/nats.go"
)

// FuzzKeys looks for two keys that share a consumer, and for names that NATS refuses.
func FuzzKeys(f *testing.F) {
	f.Add("app", "", false, false, "g", "app", "", true, false, "g")
	f.Add("a", "b", true, false, "c", "ab", "", true, false, "c")
	f.Add("a.b>*", " ", true, true, "\x00", "a", "b", false, false, strings.Repeat("g", MaxName))
	f.Fuzz(func(t *testing.T, app1, channel1 string, by1, public1 bool, name1, app2, channel2 string, by2, public2 bool, name2 string) {
		a := Key{app1, channel1, by1, public1, name1}
		b := Key{app2, channel2, by2, public2, name2}
		if (a == b) != (a.Consumer() == b.Consumer()) {
			t.Errorf("%+v and %+v have the consumers %s and %s", a, b, a.Consumer(), b.Consumer())
		}
		s := a.subjects(3)
		if strings.ContainsAny(s.consumer, " \t\r\n\f.*>\\/") || len(s.consumer) > 255 {
			t.Errorf("NATS refuses the consumer's name %q", s.consumer)
		}
		if strings.ContainsAny(s.deliver, " \t\r\n\f*>\x00") || strings.Count(s.deliver, ".") != 2 {
			t.Errorf("NATS refuses the subject %q", s.deliver)
		}
		if !strings.HasPrefix(s.consumer, prefix(app1)+"-") {
			t.Errorf("%q is not found among its application's", s.consumer)
		}
	})
}

func TestAGroupWithAChannelWantsExactlyThat(t *testing.T) {
	k := Key{ByChannel: true, Channel: "a b%"}
	for _, c := range []struct {
		header string
		want   bool
	}{{"a b%", true}, {"a b", false}, {"", false}, {"A b%", false}} {
		if got := k.wants(nats.Header{event.HeaderChannel: {event.EscapeHeader(c.header)}}); got != c.want {
			t.Errorf("channel %q: %v, want %v", c.header, got, c.want)
		}
	}
	if k.wants(nats.Header{}) {
		t.Error("it wants an event without a channel")
	}
	if k := (Key{ByChannel: true}); k.wants(nats.Header{}) || !k.wants(nats.Header{event.HeaderChannel: {""}}) {
		t.Error("the empty channel is not the absence of one")
	}
}

// Groups that are there keep their consumers from one version of the edge to the next.
func TestNamesOfConsumersStayAsTheyAre(t *testing.T) {
	for want, key := range map[string]Key{
		"a172cedcae47474b-1a208a5dff50a024ca618a1ee685b57a-s-app-g": {Application: "app", Name: "g"},
		"a172cedcae47474b-824c9d87c1ee2236132ee0ae788c5c5d-a-app-g": {Application: "app", Channel: "c", ByChannel: true, Public: true, Name: "g"},
	} {
		if got := key.Consumer(); got != want {
			t.Errorf("%+v has the consumer %s, want %s", key, got, want)
		}
		if account, public, ok := accountOf(want); account != key.account() || public != key.Public || !ok {
			t.Errorf("%s counts for %q, public %v", want, account, public)
		}
	}
}
