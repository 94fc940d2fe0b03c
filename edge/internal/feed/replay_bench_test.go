package feed

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/shared/natstest"
)

// BenchmarkReplayOfWhatNobodyWants says what it costs, in processor time of the edge and the NATS
// server together, to pass over one event that a socket's filter does not want.
func BenchmarkReplayOfWhatNobodyWants(b *testing.B) {
	const events = 20_000
	for _, kept := range []int64{1, 64 << 20} {
		b.Run(fmt.Sprintf("kept=%dMiB", kept>>20), func(b *testing.B) {
			nc := natstest.Start(b).Connect()
			js := natstest.Streams(b, nc, 1)
			pad := strings.Repeat("x", 300)
			for n := 1; n <= events; n++ {
				if js.PublishAsyncPending() > 1000 {
					<-js.PublishAsyncComplete()
				}
				if _, err := js.PublishMsgAsync(natstest.Message(1, "app", "", fmt.Sprintf(`{"n":%d,"pad":%q}`, n, pad))); err != nil {
					b.Fatal(err)
				}
			}
			<-js.PublishAsyncComplete()
			buffers := roomy
			buffers.ReplayBytes = kept
			h := New(Config{Buffers: buffers, Workers: 1, Held: func() int64 { return 0 }}, nc, nc, zap.NewNop(), prometheus.NewRegistry())
			ctx, cancel := context.WithCancel(b.Context())
			var hub sync.WaitGroup
			defer hub.Wait()
			defer cancel()
			hub.Go(func() { _ = h.Run(ctx) })
			for h.Ready() != nil {
				<-time.After(time.Millisecond)
			}
			replay := func() {
				s := newFakeSocket(-1)
				if err := h.Attach(b.Context(), "app", nothing, Since{kind: fromEarliest}, s, &s.Reader); err != nil {
					b.Fatal(err)
				}
				s.Release()
				for h.replaying() > 0 {
					<-time.After(100 * time.Microsecond)
				}
				s.Detach()
			}
			replay() // opens the feed
			began := processorTime()
			for b.Loop() {
				replay()
			}
			b.ReportMetric(float64(processorTime()-began)/float64(b.N)/events, "cpu-ns/event")
		})
	}
}

func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // fails only for bad arguments
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
