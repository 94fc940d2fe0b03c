package gateway

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"canopy/edge/internal/certtest"
	"canopy/shared/config"
	"canopy/shared/event"
	"canopy/shared/natstest"
)

// harmedBy is the event that the clients of these tests cannot take.
const harmedBy = 11

// comeBack is a member that comes back to one of the edges whenever its socket ends, until ctx
// does. It closes with 1009 above 1 MiB, as Python's websockets does, or if it crashes dies of
// the event instead.
func (c *crew) comeBack(ctx context.Context, member int, edges []*stack, crashes bool) {
	c.end.Go(func() {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: certtest.Client()}}
		for n := member; ctx.Err() == nil; n++ {
			socket, _, err := websocket.Dial(ctx, edges[n%len(edges)].url()+"/open-app?group_id=g", &websocket.DialOptions{HTTPClient: client})
			if err == nil {
				c.readUntilHarmed(ctx, member, socket, crashes)
			}
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
}

func (c *crew) readUntilHarmed(ctx context.Context, member int, socket *websocket.Conn, crashes bool) {
	defer func() { _ = socket.CloseNow() }()
	socket.SetReadLimit(1 << 20)
	if crashes {
		socket.SetReadLimit(2 << 20)
	}
	for {
		_, payload, err := socket.Read(ctx)
		if err != nil {
			return
		}
		e := parse(c.t, payload)
		if e.Type != event.GapType && e.Data.N == harmedBy {
			return // before it reads the Ping behind the event
		}
		c.got <- receipt{member, e}
	}
}

func TestAGroupGoesOnWithoutAnEventThatItsMembersCannotTake(t *testing.T) {
	for _, c := range []struct {
		name    string
		edges   int
		crashes bool
	}{
		{"too big for each", 1, false}, {"too big on two edges", 2, false}, {"a crash on two edges", 2, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			change := func(cfg *config.Config) { cfg.Edge.Groups.MaxDeliveries = 3 }
			edges := []*stack{startEdge(t, change)}
			s := edges[0]
			if c.edges == 2 {
				edges = append(edges, s.another(change))
			}
			ctx, cancel := context.WithCancel(t.Context())
			members := newCrew(t)
			t.Cleanup(cancel) // before the crew is waited for
			for n := range 3 * c.edges {
				members.comeBack(ctx, n, edges, c.crashes)
			}
			for _, edge := range edges {
				edge.awaitMembers(3)
			}
			s.publishMany("open-app", "", 1, harmedBy-1)
			s.publishHarmful("open-app", harmedBy)
			s.publishMany("open-app", "", harmedBy+1, 20)

			got, gap := map[int]int{}, received{}
			for gap.Type == "" {
				if r := members.next(); r.Type == event.GapType {
					gap = r.received
				} else {
					got[r.Data.N]++
				}
			}
			for n := 1; n <= harmedBy+20; n++ {
				if got[n] == 0 && n != harmedBy {
					t.Errorf("event %d did not come before the other one was given up", n)
				}
			}
			if gap.Data.Reason != event.GapUndeliverable || gap.Cursor == "" {
				t.Fatalf("told: %+v", gap)
			}
			alone := s.dial("/open-app?since="+gap.Data.After, nil)
			alone.SetReadLimit(2 << 20)
			if r := read(t, alone); r.Data.N != harmedBy || r.Cursor != gap.Cursor {
				t.Errorf("behind the place that the gap event names comes event %d with cursor %s, want %s", r.Data.N, r.Cursor, gap.Cursor)
			}
			s.publish("open-app", "", 100)
			for r := members.next(); r.Data.N != 100; r = members.next() {
				if r.Type == event.GapType {
					t.Errorf("told again: %+v", r)
				}
			}
		})
	}
}

// publishHarmful puts an event of 1.2 MB into the log.
func (s *stack) publishHarmful(application string, n int) {
	s.t.Helper()
	body := fmt.Sprintf(`{"specversion":"1.0","id":"large","type":"t","source":"s","data":{"app":%q,"n":%d,"text":%q}}`,
		application, n, strings.Repeat("x", 1_200_000))
	if _, err := s.js.PublishMsg(s.t.Context(), natstest.Message(shards, application, "", body)); err != nil {
		s.t.Fatal(err)
	}
}
