package gateway

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"canopy/edge/internal/certtest"
	"canopy/shared/config"
	"canopy/shared/event"
)

// statusOf asks for a socket and gives the status of the answer. Any goroutine may call it.
func (s *stack) statusOf(path string) int {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: certtest.Client()}}
	c, answer, err := websocket.Dial(ctx, s.url()+path, &websocket.DialOptions{HTTPClient: client})
	if err == nil {
		s.t.Cleanup(func() { _ = c.CloseNow() })
	}
	if answer == nil {
		s.t.Errorf("open %.100s: %v", path, err)
		return 0
	}
	return answer.StatusCode
}

func TestNoSinceMakesTheEdgeFailOrWarn(t *testing.T) {
	core, logs := observer.New(zapcore.WarnLevel)
	s := startEdgeLogging(t, zap.New(core), func(cfg *config.Config) { cfg.Edge.Limits.HalfOpenPerAddress = 0 })
	p := s.remember("open-app", 10)
	noWarnings := func() {
		t.Helper()
		for _, entry := range logs.TakeAll() {
			if strings.Contains(entry.Message, "refused") || strings.Contains(entry.Message, "again") {
				t.Errorf("warned: %s %v", entry.Message, entry.ContextMap())
			}
		}
	}
	gone := event.Cursor{Log: p.log, Sequence: 1<<64 - 1}
	cases := []sinceCase{
		{name: "a year that JSON cannot say", since: "9999-12-31T23:59:59-23:59"},
		{name: "the last year", since: "9999-12-31T23:59:59Z"},
		{name: "a time beyond nanoseconds", since: "2300-01-01T00:00:00Z"},
		{name: "the last nanosecond", since: "2262-04-11T23:47:16.854775807Z"},
		{name: "the year 0", since: "0000-01-01T00:00:00Z", want: numbers(1, 10, 1)},
		{name: "before the year 0", since: "0000-01-01T00:00:00+23:59", want: numbers(1, 10, 1)},
		{name: "the year 1", since: "0001-01-01T00:00:00Z", want: numbers(1, 10, 1)},
		{name: "before nanoseconds", since: "1600-01-01T00:00:00Z", want: numbers(1, 10, 1)},
		{name: "before 1970", since: "1969-12-31T23:59:59Z", want: numbers(1, 10, 1)},
		{name: "the last sequence", since: gone.String(), gap: event.GapFuture, after: gone, before: p.at[1], want: numbers(1, 10, 1)},
	}
	for _, log := range []event.Log{0, 1, p.log - 1, p.log + 1, 1<<64 - 1} {
		for _, sequence := range []uint64{0, 1, 1<<63 - 1, 1 << 63, 1<<64 - 2, 1<<64 - 1} {
			c := event.Cursor{Log: log, Sequence: sequence}
			cases = append(cases, sinceCase{name: fmt.Sprint("cursor ", c), since: c.String(), gap: event.GapLog, after: c, before: p.at[1], want: numbers(1, 10, 1)})
		}
	}
	s.expectSince("open-app", cases)
	noWarnings()
	for _, since := range []string{
		"", "latest", "2026-01-01T00:00:60Z", "10000-01-01T00:00:00Z", "-0001-01-01T00:00:00Z",
		"ffffffffffffffff-18446744073709551616", strings.Repeat("f", 10<<10), "2026-01-01T00:00:00" + strings.Repeat("Z", 10<<10),
	} {
		if status := s.statusOf("/open-app?since=" + url.QueryEscape(since)); status != http.StatusBadRequest {
			t.Errorf("since=%.40q: status %d, want 400", since, status)
		}
	}
	noWarnings()
}

func TestRefusalsThatClientsCauseAreLoggedAFewTimesASecond(t *testing.T) {
	const requests = 200
	core, logs := observer.New(zapcore.WarnLevel)
	s := startEdgeLogging(t, zap.New(core), func(cfg *config.Config) { cfg.Edge.Limits.HalfOpenPerAddress = 0 })
	s.nats.Down()
	var all sync.WaitGroup
	for range requests { // each waits for a while, in case NATS comes back
		all.Go(func() {
			if status := s.statusOf("/open-app"); status != http.StatusServiceUnavailable {
				t.Errorf("status %d without NATS, want 503", status)
			}
		})
	}
	all.Wait()
	n := logs.FilterMessage("socket refused").Len()
	t.Logf("%d of %d refusals are logged", n, requests)
	if n == 0 || n > requests/2 {
		t.Errorf("%d of %d refusals are logged", n, requests)
	}
	if n := s.metric(`canopy_edge_requests_total{status="503"}`); n != requests {
		t.Errorf("%v refusals are counted, want %d", n, requests)
	}
}
