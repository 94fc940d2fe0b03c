//go:build linux

package drain

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// choir sends every open socket what it is told to. Nobody joins while it sends.
type choir struct {
	t       *testing.T
	mu      sync.Mutex
	members map[chan string]bool
}

// serve gives the address at which sockets join; a member that leaves reads no more.
func (c *choir) serve() string {
	return serve(c.t, func(ctx context.Context, s *websocket.Conn) {
		events := make(chan string, 10)
		c.mu.Lock()
		c.members[events] = true
		c.mu.Unlock()
		ctx = s.CloseRead(ctx)
		for {
			select {
			case <-ctx.Done():
				c.mu.Lock()
				delete(c.members, events)
				c.mu.Unlock()
				return
			case e := <-events:
				if err := s.Write(ctx, websocket.MessageText, []byte(e)); err != nil {
					return // it has left
				}
			}
		}
	})
}

// sing sends event n to all who are there, but to skip of them, once they are size.
func (c *choir) sing(n, size, skip int) {
	c.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		c.mu.Lock()
		if len(c.members) == size {
			break
		}
		c.mu.Unlock()
		if time.Now().After(end) {
			c.t.Fatalf("there are not %d sockets", size)
		}
	}
	defer c.mu.Unlock()
	for events := range c.members {
		if skip--; skip < 0 {
			events <- eventJSON(n)
		}
	}
}

func TestReplacedSocketsAreOpenAgainAndCoveredFromTheirHandshakes(t *testing.T) {
	c := &choir{t: t, members: map[chan string]bool{}}
	f := open(t, Config{Sockets: 5, First: 1, URL: c.serve()})
	var made []time.Time
	made = append(made, time.Now())
	c.sing(1, 5, 0)
	await(t, f, func(s Snapshot) bool { return s.Events == 5 })
	start := time.Now()
	if err := f.Replace(t.Context(), 2, 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 25*time.Millisecond {
		t.Errorf("two were replaced within %v, not evenly over 50ms", took)
	}
	if s := f.Snapshot(); s.Replaced != 2 || s.Open != 5 || s.Sockets != 5 || len(s.Closes) != 0 {
		t.Errorf("%d replaced, %d of %d open, closes %v", s.Replaced, s.Open, s.Sockets, s.Closes)
	}
	made = append(made, time.Now())
	if got := f.Coverage(made); got.Behind != 5 || got.Late != 0 || got.Newcomers != 2 {
		t.Errorf("before event 2: %+v", got)
	}
	c.sing(2, 5, 0)
	s := await(t, f, func(s Snapshot) bool { return s.Events == 10 })
	if got, want := f.Coverage(made), (Coverage{Sockets: 5, Newcomers: 2, Due: 8}); got != want || s.Fault() != nil {
		t.Errorf("coverage %+v, want %+v; %v", got, want, s.Fault())
	}
}

func TestCoverageNamesSocketsThatMissedAnEvent(t *testing.T) {
	c := &choir{t: t, members: map[chan string]bool{}}
	f := open(t, Config{Sockets: 3, URL: c.serve()})
	made := []time.Time{time.Now(), time.Now()}
	c.sing(1, 3, 1)
	await(t, f, func(s Snapshot) bool { return s.Events == 2 })
	if got := f.Coverage(made[:1]); got.Behind != 1 || got.Late != 0 {
		t.Errorf("one has had nothing: %+v", got)
	}
	c.sing(2, 3, 0)
	await(t, f, func(s Snapshot) bool { return s.Events == 5 })
	if got := f.Coverage(made); got.Behind != 0 || got.Late != 1 {
		t.Errorf("one began with event 2: %+v", got)
	}
}

func TestASocketThatTheServerClosedIsNotReplaced(t *testing.T) {
	f := open(t, Config{Sockets: 1, URL: serve(t, func(_ context.Context, c *websocket.Conn) {
		_ = c.Close(websocket.StatusGoingAway, "bye")
	})})
	await(t, f, func(s Snapshot) bool { return s.Open == 0 })
	if err := f.Replace(t.Context(), 1, 0); err == nil || !strings.Contains(err.Error(), "closed by the server") {
		t.Errorf("error is %v", err)
	}
}

func TestACrewReplacesItsShareAndCountsPings(t *testing.T) {
	ping := make(chan struct{})
	crew := startCrew(t, Config{Sockets: 3, URL: serve(t, func(ctx context.Context, c *websocket.Conn) {
		ctx = c.CloseRead(ctx)
		select {
		case <-ping:
		case <-ctx.Done():
			return
		}
		_ = c.Ping(ctx)
		_ = c.Ping(ctx)
		<-ctx.Done()
	})}, 2)
	if err := crew.Replace(3, 0, patience); err != nil {
		t.Fatal(err)
	}
	close(ping)
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		s, err := crew.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		if s.Pings == 6 {
			if s.Pinged != 3 || s.Replaced != 3 || s.Open != 3 {
				t.Errorf("%d pinged, %d replaced, %d open", s.Pinged, s.Replaced, s.Open)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d Pings", s.Pings)
		}
	}
	c, err := crew.Coverage(nil)
	if err != nil || c.Sockets != 3 {
		t.Errorf("coverage %+v, %v", c, err)
	}
}

func TestACrewsProcessesAreKilledWhenTheirContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	crew, err := Recruit(ctx, 2)
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan struct{}, 10)
	opened := make(chan error, 1)
	go func() {
		opened <- crew.Open(Config{Sockets: 2, URL: stuck(t, accepted)}, patience)
	}()
	<-accepted // a handshake that nobody answers is under way
	cancel()
	if err := <-opened; err == nil {
		t.Error("opening went on")
	}
	if err := crew.Stop(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("error is %v", err)
	}
}

// stuck is the address of a server that accepts and says nothing.
func stuck(t *testing.T, accepted chan<- struct{}) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // the listener is closed
			}
			defer func() { _ = c.Close() }() // when the listener is
			accepted <- struct{}{}
		}
	}()
	return "ws://" + l.Addr().String() + "/app"
}
