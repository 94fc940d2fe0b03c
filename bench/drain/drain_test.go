//go:build linux

package drain

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

const patience = 20 * time.Second

// serve answers every handshake and hands the socket to play.
func serve(t *testing.T, play func(ctx context.Context, c *websocket.Conn)) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		defer func() { _ = c.CloseNow() }()
		play(r.Context(), c)
	}))
	t.Cleanup(server.Close)
	return "ws" + strings.TrimPrefix(server.URL, "http") + "/app"
}

func open(t *testing.T, cfg Config) *Fleet {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	f, err := Dial(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func await(t *testing.T, f *Fleet, until func(Snapshot) bool) Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := f.Wait(ctx, until)
	if err != nil {
		s.Latency = Histogram{}
		t.Fatalf("%v; last snapshot: %+v", err, s)
	}
	return s
}

func eventJSON(n int) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":"x","data":{"n":%d,"at":%d},"application":"a"}`, n, time.Now().UnixNano())
}

func send(ctx context.Context, t *testing.T, c *websocket.Conn, texts ...string) {
	for _, text := range texts {
		if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			t.Errorf("write: %v", err)
		}
	}
}

// sendNumbers sends events with these counters and waits for the client's end.
func sendNumbers(t *testing.T, numbers ...int) func(context.Context, *websocket.Conn) {
	return func(ctx context.Context, c *websocket.Conn) {
		for _, n := range numbers {
			send(ctx, t, c, eventJSON(n))
		}
		_, _, _ = c.Read(ctx)
	}
}

func TestFaultsOfTheSequenceAreCountedPerKind(t *testing.T) {
	for _, test := range []struct {
		name                     string
		numbers                  []int
		first, sequences         uint64
		holes, repeats, reorders uint64
	}{
		{name: "in order", numbers: []int{7, 8, 9, 10}},
		{name: "from the first", numbers: []int{1, 2, 3}, first: 1},
		{name: "the first is lost", numbers: []int{3, 4}, first: 1, holes: 2},
		{name: "a hole", numbers: []int{1, 2, 6, 7}, holes: 3},
		{name: "a repeat of the last", numbers: []int{1, 2, 2, 3}, repeats: 1},
		{name: "an old one again", numbers: []int{1, 2, 3, 1, 4}, repeats: 1},
		{name: "two exchanged", numbers: []int{1, 3, 2, 4}, reorders: 1},
		{name: "late and again", numbers: []int{1, 4, 3, 3, 5}, holes: 1, repeats: 1, reorders: 1},
		{name: "late from the middle", numbers: []int{1, 9, 5, 2, 8}, holes: 4, reorders: 3},
		{name: "three sequences", numbers: []int{3, 4, 6, 5, 9, 7, 8}, first: 1, sequences: 3},
		{name: "a hole in the second of three", numbers: []int{3, 6, 9, 4, 10, 5}, first: 1, sequences: 3, holes: 1},
		{name: "the second of three begins late and repeats", numbers: []int{3, 7, 7}, first: 1, sequences: 3, holes: 1, repeats: 1},
		{name: "two of the third exchanged", numbers: []int{5, 11, 8}, first: 1, sequences: 3, reorders: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			const sockets = 3
			f := open(t, Config{URL: serve(t, sendNumbers(t, test.numbers...)), Sockets: sockets, First: test.first, Sequences: test.sequences})
			s := await(t, f, func(s Snapshot) bool { return s.Events == uint64(sockets*len(test.numbers)) })
			if s.Holes != sockets*test.holes || s.Repeats != sockets*test.repeats || s.Reorders != sockets*test.reorders {
				t.Errorf("%v: holes %d, repeats %d, reorders %d on %d sockets", test.numbers, s.Holes, s.Repeats, s.Reorders, sockets)
			}
			if wrong := test.holes+test.repeats+test.reorders > 0; wrong != (len(s.Wrong) > 0) {
				t.Errorf("wrong are %q", s.Wrong)
			}
			if wrong := test.holes+test.repeats+test.reorders > 0; wrong != (s.Fault() != nil) {
				t.Errorf("Fault() = %v", s.Fault())
			}
			if s.Latency.Count() != s.Events || s.Latency.Max() <= 0 || s.Latency.Max() > patience {
				t.Errorf("latency of %d events: %d counted, max %v", s.Events, s.Latency.Count(), s.Latency.Max())
			}
		})
	}
}

func TestUnreadableNumbersAreFaultsAndOtherMessagesAreNot(t *testing.T) {
	f := open(t, Config{Sockets: 1, URL: serve(t, func(ctx context.Context, c *websocket.Conn) {
		send(ctx, t, c, `{"type":"gap","data":{"lost":3}}`, `{"data":{"n":x}}`, `{"data":{"n":5,"at":y}}`, `{"data":{"n":6}}`)
		_, _, _ = c.Read(ctx)
	})})
	s := await(t, f, func(s Snapshot) bool { return s.Events == 2 })
	if s.Others != 1 || s.BadNumber != 2 || s.Fault() == nil {
		t.Errorf("others %d, bad numbers %d, fault %v", s.Others, s.BadNumber, s.Fault())
	}
}

func TestPingsAreAnsweredWhileEventsCome(t *testing.T) {
	answered := make(chan error, 1)
	f := open(t, Config{Sockets: 1, URL: serve(t, func(ctx context.Context, c *websocket.Conn) {
		ctx = c.CloseRead(ctx)
		send(ctx, t, c, eventJSON(1))
		answered <- c.Ping(ctx) // returns when the pong with its payload has come
		send(ctx, t, c, eventJSON(2))
		<-ctx.Done()
	})})
	if err := <-answered; err != nil {
		t.Error(err)
	}
	s := await(t, f, func(s Snapshot) bool { return s.Events == 2 })
	if s.Pings != 1 || s.LostPongs != 0 || s.Fault() != nil {
		t.Errorf("pings %d, lost pongs %d, fault %v", s.Pings, s.LostPongs, s.Fault())
	}
}

func TestCloseCodesAreCountedAndAnswered(t *testing.T) {
	answer := make(chan error, 1)
	f := open(t, Config{Sockets: 1, URL: serve(t, func(ctx context.Context, c *websocket.Conn) {
		send(ctx, t, c, eventJSON(1))
		answer <- c.Close(1013, "slow since=x") // returns when the client has answered
	})})
	if err := <-answer; err != nil {
		t.Error(err)
	}
	s := await(t, f, func(s Snapshot) bool { return s.Open == 0 })
	if s.Closes[1013] != 1 || len(s.Closes) != 1 || s.Reasons[1013] != "slow since=x" || s.Events != 1 {
		t.Errorf("closes %v, reasons %v, events %d", s.Closes, s.Reasons, s.Events)
	}
}

func TestASocketThatIsCutOffCountsAs1006(t *testing.T) {
	f := open(t, Config{Sockets: 2, URL: serve(t, func(ctx context.Context, c *websocket.Conn) {
		send(ctx, t, c, eventJSON(1))
		_ = c.CloseNow()
	})})
	s := await(t, f, func(s Snapshot) bool { return s.Open == 0 })
	if s.Closes[CutOff] != 2 || len(s.Closes) != 1 {
		t.Errorf("closes %v", s.Closes)
	}
}

func TestARefusalIsHandedToTheCaller(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer x" || r.URL.RequestURI() != "/app/c%2F?group_id=g" {
			t.Errorf("asked for %s with %v", r.URL.RequestURI(), r.Header)
		}
		http.Error(w, "no such thing", http.StatusNotFound)
	}))
	t.Cleanup(server.Close)
	_, err := Dial(t.Context(), Config{
		URL:     "ws" + strings.TrimPrefix(server.URL, "http") + "/app/c%2F?group_id=g",
		Header:  http.Header{"Authorization": {"Bearer x"}},
		Sockets: 1,
	})
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Status != http.StatusNotFound || refused.Body != "no such thing\n" {
		t.Errorf("error %v", err)
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done() // never answers
	}))
	t.Cleanup(server.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	f, err := Dial(ctx, Config{URL: "ws" + strings.TrimPrefix(server.URL, "http"), Sockets: 200})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("fleet %v, error %v", f, err)
	}
}

func TestAStalledSocketReadsNothingUntilItIsResumed(t *testing.T) {
	const sockets, stalled, events = 5, 2, 3
	start := make(chan struct{})
	f := open(t, Config{Sockets: sockets, URL: serve(t, func(ctx context.Context, c *websocket.Conn) {
		<-start
		sendNumbers(t, 1, 2, 3)(ctx, c)
	})})
	if n, err := f.Stall(stalled); n != stalled || err != nil {
		t.Fatalf("stalled %d: %v", n, err)
	}
	close(start)
	s := await(t, f, func(s Snapshot) bool { return s.Events >= (sockets-stalled)*events })
	if s.Stalled != stalled {
		t.Errorf("%d stalled", s.Stalled)
	}
	if s.Events != (sockets-stalled)*events {
		t.Errorf("%d events while %d of %d sockets are stalled", s.Events, stalled, sockets)
	}
	if err := f.Resume(); err != nil {
		t.Fatal(err)
	}
	s = await(t, f, func(s Snapshot) bool { return s.Events == sockets*events })
	if s.Fault() != nil || s.Stalled != 0 {
		t.Errorf("fault %v, %d stalled", s.Fault(), s.Stalled)
	}
}

func TestResetKeepsEachSocketsPlace(t *testing.T) {
	goOn := make(chan struct{})
	f := open(t, Config{Sockets: 1, URL: serve(t, func(ctx context.Context, c *websocket.Conn) {
		send(ctx, t, c, eventJSON(1), eventJSON(2))
		<-goOn
		sendNumbers(t, 4)(ctx, c)
	})})
	await(t, f, func(s Snapshot) bool { return s.Events == 2 })
	f.Reset()
	if s := f.Snapshot(); s.Events != 0 || s.Bytes != 0 || s.Latency.Count() != 0 || s.Open != 1 {
		t.Errorf("after reset: %d events, %d bytes, %d open", s.Events, s.Bytes, s.Open)
	}
	close(goOn)
	if s := await(t, f, func(s Snapshot) bool { return s.Events == 1 }); s.Holes != 1 {
		t.Errorf("%d holes", s.Holes)
	}
}

func TestSharedEventsComeToOneSocketEach(t *testing.T) {
	for name, test := range map[string]struct {
		sockets           [][]int
		repeats, reorders uint64
		missing           uint64 // of 1 to 6
	}{
		"split":             {sockets: [][]int{{1, 4, 5}, {2, 3, 6}}},
		"one lost":          {sockets: [][]int{{1, 5}, {2, 3, 6}}, missing: 1},
		"to both":           {sockets: [][]int{{1, 4, 5}, {2, 3, 4, 6}}, repeats: 1},
		"twice to one":      {sockets: [][]int{{1, 4, 4, 5}, {2, 3, 6}}, repeats: 1},
		"out of order":      {sockets: [][]int{{1, 5, 4}, {2, 3, 6}}, reorders: 1},
		"all of one socket": {sockets: [][]int{{1, 2, 3, 4, 5, 6}, {}}},
	} {
		t.Run(name, func(t *testing.T) {
			var next atomic.Int32
			cfg := Config{Sockets: len(test.sockets), Shared: true, URL: serve(t, func(ctx context.Context, c *websocket.Conn) {
				sendNumbers(t, test.sockets[next.Add(1)-1]...)(ctx, c)
			})}
			events := uint64(0)
			for _, numbers := range test.sockets {
				events += uint64(len(numbers))
			}
			s := await(t, open(t, cfg), func(s Snapshot) bool { return s.Events == events })
			if s.Repeats != test.repeats || s.Reorders != test.reorders || 6-s.Numbers.Len(1, 6) != test.missing {
				t.Errorf("repeats %d, reorders %d, %d came: %v", s.Repeats, s.Reorders, s.Numbers.Len(1, 6), s.Fault())
			}
		})
	}
}
