//go:build linux

package floor

import (
	"bytes"
	"context"
	"encoding/json"
	"runtime"
	"testing"
	"time"

	"canopy/bench/drain"
	"canopy/bench/load"
	"canopy/shared/event"
)

const (
	testPatience = 20 * time.Second
	size         = 512
)

func TestEverySocketGetsEveryEventInOrder(t *testing.T) {
	for _, threads := range []int{1, 2} {
		const sockets, events = 301, 40
		s, err := Listen()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ctx, cancel := context.WithTimeout(t.Context(), testPatience)
		defer cancel()
		fleet, err := drain.Dial(ctx, drain.Config{URL: s.URL(), Sockets: sockets, First: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer fleet.Close()
		for n := 0; n < sockets; {
			if n, err = s.Sockets(); err != nil || ctx.Err() != nil {
				t.Fatal(n, err, ctx.Err())
			}
		}
		sent, err := s.Send(1, events, size, threads)
		if err != nil {
			t.Fatal(err)
		}
		got, err := fleet.Wait(ctx, func(s drain.Snapshot) bool { return s.Events == sockets*events })
		if err != nil || got.Fault() != nil {
			t.Fatal(err, got.Fault())
		}
		const wire = 4 + size + event.CursorSuffixLen
		if got.Bytes != sent.Bytes || sent.Bytes != uint64(sockets*events*wire) || sent.Writes < sockets*events {
			t.Errorf("%d bytes came, sent %+v", got.Bytes, sent)
		}
	}
}

func TestAFullSocketIsWaitedForAndGetsEverything(t *testing.T) {
	const events = 20_000 // 12 MB, more than both buffers hold
	s, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), testPatience)
	defer cancel()
	fleet, err := drain.Dial(ctx, drain.Config{URL: s.URL(), Sockets: 1, First: 1, ReceiveBuffer: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer fleet.Close()
	if _, err := fleet.Stall(1); err != nil {
		t.Fatal(err)
	}
	resumed := make(chan error, 1)
	go func() {
		for s.full.Load() == 0 && ctx.Err() == nil {
			runtime.Gosched()
		}
		resumed <- fleet.Resume()
	}()
	sent, err := s.Send(1, events, size, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-resumed; err != nil {
		t.Fatal(err)
	}
	got, err := fleet.Wait(ctx, func(s drain.Snapshot) bool { return s.Events == events })
	if err != nil || got.Fault() != nil {
		t.Fatal(err, got.Fault())
	}
	if sent.Waits == 0 {
		t.Error("the socket was never full")
	}
}

func TestFramesHaveTheirSizeInTheHeader(t *testing.T) {
	for _, size := range []int{load.MinSize, 512, 70_000} {
		b := frame(7, size)
		body := b[bytes.IndexByte(b, '{'):]
		var v struct {
			Data struct{ N uint64 }
		}
		if err := json.Unmarshal(body, &v); err != nil || v.Data.N != 7 || len(body) != size+event.CursorSuffixLen {
			t.Errorf("size %d: %d bytes, counter %d: %v", size, len(body), v.Data.N, err)
		}
	}
}
