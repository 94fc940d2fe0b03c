package group

import (
	"testing"

	"github.com/nats-io/nats.go"
)

// metadata is what the client's own parser makes of a reply.
func metadata(reply string) (origin, bool) {
	meta, err := (&nats.Msg{Reply: reply, Sub: &nats.Subscription{}}).Metadata()
	if err != nil {
		return origin{}, false
	}
	return origin{sequence: meta.Sequence.Stream, delivered: meta.NumDelivered, stored: meta.Timestamp.UnixNano(), pending: meta.NumPending}, true
}

var replies = []string{
	"$JS.ACK.events-0.a1-b2-s-app-g.1.17.4.1700000000000000000.0",
	"$JS.ACK.events-0.a1-b2-s-app-g.3.123456789012.4.1700000000000000000.12",
	"$JS.ACK._.hash.events-0.consumer.2.18.5.1700000000000000000.0",
	"$JS.ACK.hub.hash.events-0.consumer.2.18.5.1700000000000000000.0.random",
	"", "_INBOX.x", "$JS.ACK.", "$JS.ACK.s.c.1.2.3.4", "$JS.ACK.d.s.c.1.2.3.4.5.6", "$KV.ACK.s.c.1.17.4.17.0",
}

func TestRepliesAreReadAsTheClientReadsThem(t *testing.T) {
	for _, reply := range replies {
		got, ok := parseReply(reply)
		want, wanted := metadata(reply)
		if got != want || ok != wanted {
			t.Errorf("%q: %+v %v, want %+v %v", reply, got, ok, want, wanted)
		}
	}
}

func TestRepliesWithoutNumbersAreForeign(t *testing.T) {
	for _, reply := range []string{
		"$JS.ACK.s.c.x.17.4.17.0", "$JS.ACK.s.c.1.-7.4.17.0", "$JS.ACK.s.c.1..4.17.0", "$JS.ACK.s.c.1.9999999999999999999.4.17.0",
	} {
		if got, ok := parseReply(reply); ok {
			t.Errorf("%q: %+v", reply, got)
		}
	}
}

func FuzzReply(f *testing.F) {
	for _, reply := range replies {
		f.Add(reply)
	}
	f.Fuzz(func(t *testing.T, reply string) {
		if got, ok := parseReply(reply); ok {
			if want, wanted := metadata(reply); got != want || !wanted {
				t.Errorf("%q: %+v, want %+v %v", reply, got, want, wanted)
			}
		}
	})
}
