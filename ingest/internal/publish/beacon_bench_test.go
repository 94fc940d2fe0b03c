//go:build unix

package publish

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"canopy/shared/natstest"
	"canopy/shared/subject"
)

// BenchmarkBeacons publishes for a time with and without beacons, for many applications
// that each have an event a second: the worst case, a beacon for every event. The server
// runs in the process, and its work counts.
//
//	go test ./ingest/internal/publish -run xxx -bench Beacons -benchtime 10x
func BenchmarkBeacons(b *testing.B) {
	const applications, shards = 10_000, 64
	for _, with := range []bool{false, true} {
		b.Run(fmt.Sprintf("applications=%d/beacons=%v", applications, with), func(b *testing.B) {
			srv := natstest.Start(b)
			s := newSite(b, srv.URL(), shards, zap.NewNop())
			if !with {
				for shard := range shards {
					s.beacons.unknown(shard)
				}
			}
			src := newSource("a", 16384)
			names := make([]string, applications)
			for i := range names {
				names[i] = fmt.Sprint("application-", i)
			}
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			before := cpu(b)
			b.ResetTimer()
			n := 0
			for range b.N { // seconds
				for range 100 {
					<-tick.C
					for range applications / 100 {
						m := src.message(subject.Shard(names[n%applications], shards), n, 400)
						m.Application = names[n%applications]
						m.Subject = subject.In(m.Shard, m.Application)
						s.Publish(m)
						n++
					}
					s.Flush()
				}
			}
			eventually(b, time.Minute, "all stored", func() bool { return src.settled() == n })
			b.ReportMetric((cpu(b)-before).Seconds()/b.Elapsed().Seconds(), "cores")
			b.ReportMetric(counterValue(s.metrics.beacons)/b.Elapsed().Seconds(), "beacons/s")
			b.ReportMetric(counterValue(s.metrics.questions)/b.Elapsed().Seconds(), "questions/s")
		})
	}
}

func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
