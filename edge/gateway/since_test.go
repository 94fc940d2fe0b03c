package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go/jetstream"

	"canopy/shared/event"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

// incoming is an event or a gap event, as a client reads it.
type incoming struct {
	Type, Cursor string
	Data         struct {
		N                     int
		Reason, After, Before string
	}
}

func receive(t *testing.T, c *websocket.Conn) (in incoming) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, payload, err := c.Read(ctx)
	if err != nil {
		t.Fatalf("read an event: %v", err)
	}
	if err := json.Unmarshal(payload, &in); err != nil {
		t.Fatalf("read %q: %v", payload, err)
	}
	return in
}

// past is what a stream holds of an application, and where.
type past struct {
	log  event.Log
	at   []event.Cursor // of event n
	when []time.Time    // after event n was stored, before the next
}

// remember publishes n events. Those with an even number have the channel "even", every
// third one the device "third". Events of another application lie between.
func (s *stack) remember(application string, n int) past {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	shard := subject.Shard(application, shards)
	stream, err := s.js.Stream(ctx, subject.Stream(shard))
	if err != nil {
		s.t.Fatal(err)
	}
	p := past{log: event.LogOf(stream.CachedInfo().Created), at: make([]event.Cursor, n+1), when: make([]time.Time, n+1)}
	put := func(application, body string, headers map[string]string) uint64 {
		m := natstest.Message(shards, application, "", body)
		m.Subject = subject.In(shard, application)
		for k, v := range headers {
			m.Header.Set(k, v)
		}
		ack, err := s.js.PublishMsg(ctx, m)
		if err != nil {
			s.t.Fatal(err)
		}
		return ack.Sequence
	}
	for i := 1; i <= n; i++ {
		headers := map[string]string{}
		if i%2 == 0 {
			headers[event.HeaderChannel] = "even"
		}
		if i%3 == 0 {
			headers[event.HeaderDevice] = "third"
		}
		body := fmt.Sprintf(`{"specversion":"1.0","id":"%d","type":"t","source":"s","data":{"n":%d}}`, i, i)
		p.at[i] = event.Cursor{Log: p.log, Sequence: put(application, body, headers)}
		p.when[i] = time.Now()
		put("neighbour", body, nil)
	}
	p.at[0] = event.Cursor{Log: p.log}
	p.when[0] = p.when[1].Add(-time.Hour)
	return p
}

// sinceCase is a row of the table of boundaries: what comes first, before event 11.
type sinceCase struct {
	name, path, since string
	gap               string // reason; empty: none
	after, before     event.Cursor
	want              []int
}

func numbers(from, to, step int) (list []int) {
	for n := from; n <= to; n += step {
		list = append(list, n)
	}
	return list
}

func (p past) boundaries() []sinceCase {
	stranger := event.Cursor{Log: p.log - 1, Sequence: p.at[3].Sequence}
	future := event.Cursor{Log: p.log, Sequence: p.at[10].Sequence + 1000}
	return []sinceCase{
		{name: "cursor in the middle", since: p.at[3].String(), want: numbers(4, 10, 1)},
		{name: "cursor of the newest event", since: p.at[10].String()},
		{name: "cursor of another application's event", since: event.Cursor{Log: p.log, Sequence: p.at[3].Sequence + 1}.String(), want: numbers(4, 10, 1)},
		{name: "the stream's last sequence", since: event.Cursor{Log: p.log, Sequence: p.at[10].Sequence + 1}.String()},
		{name: "cursor before the first event", since: p.at[0].String(), want: numbers(1, 10, 1)},
		{name: "earliest", since: "earliest", want: numbers(1, 10, 1)},
		{name: "time before the first event", since: p.when[0].Format(time.RFC3339), want: numbers(1, 10, 1)},
		{name: "time in the middle", since: p.when[5].Format(time.RFC3339Nano), want: numbers(6, 10, 1)},
		{name: "time in another zone", since: p.when[5].In(time.FixedZone("", 5400)).Format(time.RFC3339Nano), want: numbers(6, 10, 1)},
		{name: "time behind the newest event", since: p.when[10].Format(time.RFC3339Nano)},
		{name: "time in the future", since: p.when[10].Add(time.Hour).Format(time.RFC3339)},
		{name: "another log", since: stranger.String(), gap: event.GapLog, after: stranger, before: p.at[1], want: numbers(1, 10, 1)},
		{name: "a place that is still to come", since: future.String(), gap: event.GapFuture, after: future, before: p.at[1], want: numbers(1, 10, 1)},
		{name: "channel", path: "/even", since: p.at[3].String(), want: numbers(4, 10, 2)},
		{name: "channel, earliest", path: "/even", since: "earliest", want: numbers(2, 10, 2)},
		{name: "channel, another log", path: "/even", since: stranger.String(), gap: event.GapLog, after: stranger, before: p.at[1], want: numbers(2, 10, 2)},
		{name: "device", path: "?device=third", since: p.at[3].String(), want: numbers(6, 10, 3)},
		{name: "channel and device", path: "/even?device=third", since: p.at[1].String(), want: []int{6}},
		{name: "channel without events", path: "/none", since: p.at[3].String()},
	}
}

// expectSince opens a socket for each case, reads what it must bring, and then event 12,
// which every filter passes, and nothing between.
func (s *stack) expectSince(application string, cases []sinceCase) {
	s.t.Helper()
	sockets := make([]*websocket.Conn, len(cases))
	for i, c := range cases {
		u, err := url.Parse("/" + application + c.path)
		if err != nil {
			s.t.Fatal(err)
		}
		q := u.Query()
		q.Set("since", c.since)
		u.RawQuery = q.Encode()
		sockets[i] = s.dial(u.String(), nil)
		if c.gap != "" {
			in := receive(s.t, sockets[i])
			if in.Type != event.GapType || in.Data.Reason != c.gap || c.after != (event.Cursor{}) && in.Data.After != c.after.String() ||
				in.Data.Before != c.before.String() || in.Cursor >= in.Data.Before {
				s.t.Errorf("%s: got %+v, want a gap: %s, after %s, before %s", c.name, in, c.gap, c.after, c.before)
			}
		}
		var got []int
		for range c.want {
			got = append(got, receive(s.t, sockets[i]).Data.N)
		}
		if !slices.Equal(got, c.want) {
			s.t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	m := natstest.Message(shards, application, "even", `{"specversion":"1.0","id":"12","type":"t","source":"s","data":{"n":12}}`)
	m.Header.Set(event.HeaderDevice, "third")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := s.js.PublishMsg(ctx, m); err != nil {
		s.t.Fatal(err)
	}
	for i, c := range cases {
		if c.path == "/none" {
			continue
		}
		if in := receive(s.t, sockets[i]); in.Data.N != 12 {
			s.t.Errorf("%s: got %+v behind the replay, want event 12", c.name, in)
		}
	}
}

func TestSinceAtEveryBoundaryFromTheStream(t *testing.T) {
	s := startEdge(t, nil)
	p := s.remember("open-app", 10)
	s.expectSince("open-app", p.boundaries())
	if s.metric("canopy_edge_replay_reads_total") == 0 {
		t.Error("nothing was read from the stream")
	}
}

func TestSinceAtEveryBoundaryFromTheRing(t *testing.T) {
	s := startEdge(t, nil)
	for _, path := range []string{"/open-app", "/open-app/even", "/open-app?device=third", "/open-app/even?device=third", "/open-app/none"} {
		s.dial(path, nil)
	}
	p := s.remember("open-app", 10)
	s.expectSince("open-app", p.boundaries())
	if n := s.metric("canopy_edge_replay_reads_total"); n > 0 {
		t.Errorf("%v reads from the stream of what the ring holds", n)
	}
}

func TestSinceBeyondRetentionTellsWhatMayBeMissing(t *testing.T) {
	s := startEdge(t, nil)
	p := s.remember("open-app", 10)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := s.js.Stream(ctx, subject.Stream(subject.Shard("open-app", shards)))
	if err != nil {
		t.Fatal(err)
	}
	// Up to event 5; the neighbour's event behind it is left.
	if err := stream.Purge(ctx, jetstream.WithPurgeSequence(p.at[5].Sequence+1)); err != nil {
		t.Fatal(err)
	}
	s.expectSince("open-app", []sinceCase{
		{name: "a place that is gone", since: p.at[2].String(), gap: event.GapRetention, after: p.at[2], before: p.at[6], want: numbers(6, 10, 1)},
		{name: "the start of the log", since: p.at[0].String(), gap: event.GapRetention, after: p.at[0], before: p.at[6], want: numbers(6, 10, 1)},
		{name: "the last place that is gone", since: p.at[5].String(), want: numbers(6, 10, 1)},
		{name: "a place that is left", since: p.at[7].String(), want: numbers(8, 10, 1)},
		{name: "time of what is gone", since: p.when[2].Format(time.RFC3339Nano), gap: event.GapRetention, before: p.at[6], want: numbers(6, 10, 1)},
		{name: "time of what is left", since: p.when[7].Format(time.RFC3339Nano), want: numbers(8, 10, 1)},
		{name: "earliest", since: "earliest", want: numbers(6, 10, 1)},
		{name: "channel", path: "/even", since: p.at[2].String(), gap: event.GapRetention, after: p.at[2], before: p.at[6], want: numbers(6, 10, 2)},
	})
	if n := s.metric(`canopy_edge_gaps_total{reason="retention"}`); n != 4 {
		t.Errorf("%v gaps are counted, want 4", n)
	}
}

func TestSinceBeyondAnApplicationsOwnLimitTellsWhatMayBeMissing(t *testing.T) {
	s := startEdge(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cfg := natstest.StreamConfig(subject.Shard("open-app", shards), shards)
	cfg.MaxMsgsPerSubject = 5
	if _, err := s.js.UpdateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	p := s.remember("open-app", 10)
	s.expectSince("open-app", []sinceCase{
		{name: "a place that is gone", since: p.at[2].String(), gap: event.GapRetention, after: p.at[2], before: p.at[6], want: numbers(6, 10, 1)},
		{name: "a place that is left", since: p.at[6].String(), want: numbers(7, 10, 1)},
		{name: "time of what is gone", since: p.when[2].Format(time.RFC3339Nano), gap: event.GapRetention, before: p.at[6], want: numbers(6, 10, 1)},
		{name: "earliest", since: "earliest", want: numbers(6, 10, 1)},
	})
}

func TestSinceOfAnApplicationWithoutEvents(t *testing.T) {
	s := startEdge(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := s.js.Stream(ctx, subject.Stream(subject.Shard("open-app", shards)))
	if err != nil {
		t.Fatal(err)
	}
	log := event.LogOf(stream.CachedInfo().Created)
	stranger := event.Cursor{Log: log + 1, Sequence: 7}
	s.expectSince("open-app", []sinceCase{
		{name: "earliest", since: "earliest"},
		{name: "time", since: "2020-01-01T00:00:00Z"},
		{name: "cursor", since: event.Cursor{Log: log}.String()},
		{name: "another log", since: stranger.String(), gap: event.GapLog, after: stranger, before: event.Cursor{Log: log, Sequence: 1}},
	})
}
