package feed

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"canopy/shared/natstest"
)

func TestFeedsThatMissTheSameStretchReadItTogether(t *testing.T) {
	const applications, events = 40, 50
	var deaf atomic.Bool
	var proxy *natstest.Proxy
	h, js, _ := startHub(t, roomy, func(s *natstest.Server) string {
		proxy = natstest.StartProxy(t, s.URL(), func(subject string) bool {
			return deaf.Load() && strings.HasPrefix(subject, "events.")
		})
		return proxy.URL()
	}, nil)
	sockets := make([]*fakeSocket, applications)
	for i := range sockets {
		sockets[i] = newFakeSocket(-1)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := h.Attach(ctx, fmt.Sprint("app-", i), Filter{}, Since{}, sockets[i], &sockets[i].Reader); err != nil {
			t.Fatal(err)
		}
		sockets[i].Release()
	}
	deaf.Store(true)
	for n := 1; n <= events; n++ {
		for i := range applications {
			if _, err := js.PublishMsgAsync(natstest.Message(1, fmt.Sprint("app-", i), "", fmt.Sprintf(`{"n":%d}`, n))); err != nil {
				t.Fatal(err)
			}
		}
	}
	<-js.PublishAsyncComplete()
	before := count(t, h.stats.requests)
	deaf.Store(false)
	h.Reconnected()
	for _, s := range sockets {
		s.until(t, "everything that was missed", func() bool { return s.whole() == events })
		s.mu.Lock()
		for i, n := range numbersOf(t, s.got.Bytes()) {
			if n != i+1 {
				t.Fatalf("event %d is %d", i+1, n)
			}
		}
		s.mu.Unlock()
	}
	if proxy.Dropped() < applications*events/2 {
		t.Fatalf("only %d messages were lost", proxy.Dropped())
	}
	requests := count(t, h.stats.requests) - before
	t.Logf("%v requests for %d events of %d applications", requests, applications*events, applications)
	if requests > applications*events/4 {
		t.Errorf("%v requests for %d events of %d applications, want shared ones", requests, applications*events, applications)
	}
}
