package load

import (
	"context"
	"encoding/json"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"canopy/shared/event"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

const patience = 20 * time.Second

func TestStreamPublishesWhatTheEdgeExpects(t *testing.T) {
	const events, size = 50, 512
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	nc := natstest.Start(t).Connect()
	live, err := nc.SubscribeSync(subject.Events(0, Application))
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenStream(ctx, nc, Application, size)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // numbers go on from one call to the next
		if err := s.Publish(ctx, events/2, 0); err != nil {
			t.Fatal(err)
		}
	}
	for n := 1; n <= events; n++ {
		m, err := live.NextMsgWithContext(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Data) != size || number(t, m.Data) != n || m.Header.Get("Nats-Sequence") != strconv.Itoa(n) {
			t.Fatalf("message %d: %v %s", n, m.Header, m.Data)
		}
		for _, name := range []string{event.HeaderChannel, event.HeaderDevice, event.HeaderAppended, nats.MsgIdHdr} {
			if m.Header.Get(name) == "" {
				t.Errorf("message %d has no %s", n, name)
			}
		}
	}
}

func TestTopicPublishesCloudEventsInBinaryMode(t *testing.T) {
	const events, topic = 50, "events-" + Application
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	out, err := OpenTopic(cluster.ListenAddrs(), Application, 512)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(out.Close)
	if err := out.Publish(ctx, events, 0); err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics(topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	for n := 1; n <= events; {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		for _, r := range fetches.Records() {
			headers := map[string]string{}
			for _, h := range r.Headers {
				headers[h.Key] = string(h.Value)
			}
			if number(t, []byte(`{"data":`+string(r.Value)+`}`)) != n || headers["ce_id"] != strconv.Itoa(n) || headers["ce_specversion"] != "1.0" {
				t.Fatalf("record %d: %v %s", n, headers, r.Value)
			}
			n++
		}
	}
}

func TestARefusedTopicIsAnError(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	out, err := OpenTopic(cluster.ListenAddrs(), "missing", 512)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(out.Close)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := out.Publish(ctx, 3, 0); err == nil {
		t.Error("no error")
	}
}

func TestPaceHoldsItsRateEvenIfSomeSendsAreSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const events, rate = 101, 50.0
		start, sent := time.Now(), 0
		err := pace(t.Context(), events, rate, func() error {
			if sent++; sent == 10 {
				time.Sleep(300 * time.Millisecond) // the clock here is the bubble's
			}
			return nil
		})
		if took := time.Since(start); err != nil || sent != events || took != 2*time.Second {
			t.Errorf("%d events in %v: %v", sent, took, err)
		}
	})
}

func number(t *testing.T, b []byte) int {
	t.Helper()
	var e struct {
		Data struct{ N int }
	}
	if err := json.Unmarshal(b, &e); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return e.Data.N
}
