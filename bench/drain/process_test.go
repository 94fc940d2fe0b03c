//go:build linux

package drain

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// TestMain lets the test's program be the processes of a crew.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Command {
		if err := Serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func startCrew(t *testing.T, cfg Config, processes int) *Crew {
	t.Helper()
	c, err := Start(cfg, processes, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestJoinedCrewsAreOneThatWaitsForAtLeastSoManyEvents(t *testing.T) {
	cfg := Config{First: 1, URL: serve(t, func(ctx context.Context, c *websocket.Conn) { sendNumbers(t, 1, 2, 3)(ctx, c) })}
	var parts []*Crew
	for _, sockets := range []int{2, 3} {
		cfg.Sockets = sockets
		c, err := Start(cfg, 1, patience)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, c)
	}
	all := Join(parts...)
	defer func() {
		if err := all.Stop(); err != nil {
			t.Error(err)
		}
	}()
	for _, events := range []int{1, 3} { // three have come in the end
		if err := all.Reach(events, patience); err != nil {
			t.Error(err)
		}
	}
	if s, err := all.Snapshot(); err != nil || s.Sockets != 5 || s.Events != 15 {
		t.Errorf("%d sockets, %d events: %v", s.Sockets, s.Events, err)
	}
	if all.Wait(1, patience) == nil {
		t.Error("more events than were waited for: no error")
	}
}

func TestACrewSharesItsSocketsAndAddsWhatItSaw(t *testing.T) {
	const sockets, events = 7, 3
	goOn := make(chan struct{})
	c := startCrew(t, Config{Sockets: sockets, First: 1, URL: serve(t, func(ctx context.Context, c *websocket.Conn) {
		send(ctx, t, c, eventJSON(1), eventJSON(2), eventJSON(3))
		<-goOn
		sendNumbers(t, 4)(ctx, c)
	})}, 3)
	if err := c.Wait(events, patience); err != nil {
		t.Fatal(err)
	}
	s, err := c.Snapshot()
	if err != nil || s.Sockets != sockets || s.Open != sockets || s.Events != sockets*events || s.Latency.Count() != s.Events {
		t.Errorf("%d sockets, %d open, %d events, %d latencies: %v", s.Sockets, s.Open, s.Events, s.Latency.Count(), err)
	}
	if err := c.Reset(); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	if err := c.Wait(1, patience); err != nil {
		t.Error(err)
	}
}

func TestACrewsWaitEndsWithWhatWentWrong(t *testing.T) {
	for name, test := range map[string]struct {
		play func(ctx context.Context, c *websocket.Conn)
		want string
	}{
		"lost":     {sendNumbers(t, 1, 3), "1 events lost"},
		"repeated": {sendNumbers(t, 1, 1), "1 events repeated"},
		"late":     {sendNumbers(t, 1, 2, 4, 3), ""}, // seen as a hole if the wait looks in between
		"closed": {func(ctx context.Context, c *websocket.Conn) {
			send(ctx, t, c, eventJSON(1))
			_ = c.Close(1013, "slow")
		}, "1013"},
	} {
		t.Run(name, func(t *testing.T) {
			c := startCrew(t, Config{Sockets: 1, First: 1, URL: serve(t, test.play)}, 1)
			if err := c.Wait(1000, patience); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v", err)
			}
			s, err := c.Snapshot()
			if err != nil {
				t.Fatal(err)
			}
			if name == "closed" && s.Closes[1013] != 1 || name != "closed" && s.Fault() == nil {
				t.Errorf("closes %v, fault %v", s.Closes, s.Fault())
			}
		})
	}
}

func TestACrewThatCannotOpenLeavesNothingBehind(t *testing.T) {
	c, err := Start(Config{URL: "ws://127.0.0.1:1/app", Sockets: 2}, 2, patience)
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("crew %v, error %v", c, err)
	}
}

func TestACrewStallsAShareAndResumesIt(t *testing.T) {
	c := startCrew(t, Config{Sockets: 10, URL: serve(t, sendNumbers(t))}, 2)
	for _, want := range []int{4, 0} {
		if want > 0 {
			if err := c.Stall(0.4); err != nil {
				t.Fatal(err)
			}
		} else if err := c.Resume(); err != nil {
			t.Fatal(err)
		}
		if s, err := c.Snapshot(); err != nil || s.Stalled != want {
			t.Errorf("%d stalled instead of %d: %v", s.Stalled, want, err)
		}
	}
}
