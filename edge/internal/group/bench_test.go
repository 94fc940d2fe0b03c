package group

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// BenchmarkRotation is what an event costs in the rotation from its arrival to its
// acknowledgement, with each member answering every Ping. One allocation per event is the
// event itself; those of the map of what is held, and of the lists in which decisions go
// out, are shared by very many.
func BenchmarkRotation(b *testing.B) {
	for _, members := range []int{1, 8, 1024} {
		for _, batch := range []int{1, 64} {
			b.Run(fmt.Sprintf("members=%d/batch=%d", members, batch), func(b *testing.B) {
				r := newRotation(limits{window: 256, group: 1024, share: 1 << 30, ackWait: 20 * time.Second}, &room{limit: 1 << 30})
				for range members {
					r.open(&Member{socket: &plainSocket{}, window: 256})
				}
				data, reply := make([]byte, 512), "$JS.ACK.events-0.consumer.1.17.4.1700000000000000000.0"
				acked, now, seq := 0, time.Second, uint64(0)
				spare := outcome{}
				b.ReportAllocs()
				for acked < b.N {
					for range batch {
						seq++
						r.take(&delivery{seq: seq, data: data, reply: reply}, now)
					}
					for {
						r.assign(now, false)
						o := r.done
						r.done = spare
						if o.empty() {
							spare = outcome{} // as a worker does
							break
						}
						acked += len(o.acks)
						for _, w := range o.writes {
							if w.ping != 0 {
								r.pong(w.member, w.ping, now)
							}
						}
						spare = o.reset()
					}
				}
			})
		}
	}
}

// BenchmarkReply compares ways to read where a message comes from.
func BenchmarkReply(b *testing.B) {
	msg := &nats.Msg{Sub: &nats.Subscription{}, Reply: "$JS.ACK.events-0." + Key{Application: "app", Name: "group"}.Consumer() +
		".1." + strconv.Itoa(12_345_678) + ".4.1700000000000000000.17"}
	b.Run("parseReply", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := parseReply(msg.Reply); !ok {
				b.Fatal(msg.Reply)
			}
		}
	})
	b.Run("Metadata", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := msg.Metadata(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
