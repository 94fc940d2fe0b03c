package gateway

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"canopy/edge/internal/certtest"
	"canopy/edge/internal/feed"
	"canopy/shared/config"
	"canopy/shared/event"
	"canopy/shared/natstest"
)

var asAlice = http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("alice:secret"))}}

// stock publishes n numbered events of 300 bytes, quickly.
func (s *stack) stock(application string, n int) {
	s.t.Helper()
	pad := strings.Repeat("x", 200)
	for i := 1; i <= n; i++ {
		if s.js.PublishAsyncPending() > 500 {
			<-s.js.PublishAsyncComplete()
		}
		m := natstest.Message(shards, application, "", fmt.Sprintf(`{"specversion":"1.0","id":"%d","type":"t","source":"s","data":{"n":%d,"pad":%q}}`, i, i, pad))
		m.Header.Set(event.HeaderDevice, fmt.Sprint("device-", i%10))
		if _, err := s.js.PublishMsgAsync(m); err != nil {
			s.t.Fatal(err)
		}
	}
	select {
	case <-s.js.PublishAsyncComplete():
	case <-time.After(patience):
		s.t.Fatal("events are not acknowledged")
	}
}

// catchUp reads an application from its first event to event n and says how long that took.
func (s *stack) catchUp(application string, n int) time.Duration {
	s.t.Helper()
	began := time.Now()
	c := s.dial("/"+application+"?since=earliest", nil)
	for want := 1; want <= n; want++ {
		if in := receive(s.t, c); in.Data.N != want {
			s.t.Fatalf("%s: got %+v, want event %d", application, in, want)
		}
	}
	_ = c.CloseNow()
	return time.Since(began)
}

// replayInVain opens sockets that want everything from the log and get nothing, again and
// again, until ctx ends: the attack of one user.
func (s *stack) replayInVain(ctx context.Context, application string, sockets int) *sync.WaitGroup {
	var all sync.WaitGroup
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: certtest.Client()}}
	for range sockets {
		all.Go(func() {
			for ctx.Err() == nil {
				c, _, err := websocket.Dial(ctx, s.url()+"/"+application+"?since=earliest&device=none", &websocket.DialOptions{HTTPHeader: asAlice, HTTPClient: client})
				if err != nil {
					continue
				}
				stays, cancel := context.WithTimeout(ctx, time.Duration(200+rand.IntN(800))*time.Millisecond)
				if _, _, err := c.Read(stays); err == nil {
					s.t.Error("an event came that nobody wanted")
				}
				cancel()
				_ = c.CloseNow()
			}
		})
	}
	return &all
}

func TestWhoReplaysInALoopIsBoundedAndOthersCatchUpAsFastAsWithoutHim(t *testing.T) {
	const events, perMinute, watched = 20_000, 60_000, 3 * time.Second
	s := startEdge(t, func(cfg *config.Config) {
		cfg.Edge.Buffers.ReplayBytes = 1 << 20 // less than the log, so that each loop reads it again
		cfg.Edge.Limits.ReplayEventsPerMinute = perMinute
	})
	s.stock("open-app", events)
	s.stock("other-app", events/4)
	without := s.catchUp("open-app", events)
	withoutElsewhere := s.catchUp("other-app", events/4)

	ctx, cancel := context.WithCancel(t.Context())
	attack := s.replayInVain(ctx, "open-app", 16)
	defer attack.Wait()
	defer cancel()
	for deadline := time.Now().Add(patience); s.metric(`canopy_edge_over_limit_total{limit="replay_events_per_minute"}`) == 0; <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the attack is not bounded")
		}
	}
	<-time.After(time.Second) // what was under way is over
	read, used := s.metric("canopy_edge_replayed_events_total"), s.metric("process_cpu_seconds_total")
	<-time.After(watched)
	read, used = s.metric("canopy_edge_replayed_events_total")-read, s.metric("process_cpu_seconds_total")-used
	with, elsewhere := s.catchUp("open-app", events), s.catchUp("other-app", events/4)
	t.Logf("under attack %.0f events a second are read, with %.0f %% of a core; to catch up takes %v instead of %v, in another application %v instead of %v",
		read/watched.Seconds(), 100*used/watched.Seconds(), with, without, elsewhere, withoutElsewhere)
	if most := 2 * watched.Seconds() * perMinute / 60; read > most {
		t.Errorf("%v events were read within %v for a user who is over his budget, want at most %v", read, watched, most)
	}
	if most := 3*without + time.Second; with > most {
		t.Errorf("to catch up took %v, and %v without the attack", with, without)
	}
	if most := 3*withoutElsewhere + time.Second; elsewhere > most {
		t.Errorf("to catch up in another application took %v, and %v without the attack", elsewhere, withoutElsewhere)
	}
}

func TestASocketThatWaitsForItsBudgetIsDrainedWithItsPlace(t *testing.T) {
	const perMinute = 10_000
	s := startEdge(t, func(cfg *config.Config) { cfg.Edge.Limits.ReplayEventsPerMinute = perMinute })
	s.stock("open-app", perMinute+2000)
	c := s.dial("/open-app?since=earliest", nil)
	last, end := event.Cursor{}, make(chan error, 1)
	go func() {
		for {
			_, payload, err := c.Read(t.Context())
			if err != nil {
				end <- err
				return
			}
			last = event.LastCursor(payload)
		}
	}()
	for deadline := time.Now().Add(patience); s.metric("canopy_edge_replays_waiting") == 0; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the socket does not wait")
		}
	}
	if err := s.stop(); err != nil {
		t.Errorf("the edge ended with %v", err)
	}
	err := <-end
	if want := "edge is going away since=" + last.String(); last.Sequence == 0 || !strings.Contains(err.Error(), want) {
		t.Errorf("the socket ended with %v, want %q", err, want)
	}
}

func TestAReplayThatWouldWaitTooLongIsToldWhenToComeAgain(t *testing.T) {
	r := (&admission{}).noPlace("The event log", fmt.Errorf("attach: %w", &feed.TooMuchRead{RetryAfter: 8500 * time.Millisecond}))
	if r.status != http.StatusTooManyRequests || r.retryAfter != 9 {
		t.Errorf("status %d, Retry-After %d, want 429 and 9", r.status, r.retryAfter)
	}
}
