package publish

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"canopy/shared/config"
	"canopy/shared/natstest"
	"canopy/shared/stream"
	"canopy/shared/subject"
)

// shareConfig is one stream of so many MiB, of which an application may hold a quarter.
func shareConfig(mebibytes int64) config.Ingest {
	cfg := ingestConfig(1)
	cfg.Retention.Bytes, cfg.Retention.Share = mebibytes<<20, 25
	return cfg
}

// event is one of an application, with a body of about size bytes.
func (s *source) event(application string, i, size int) *Message {
	m := s.message(0, i, size)
	m.Application, m.Subject = application, subject.In(0, application)
	return m
}

// flood publishes n events of an application.
func (s *site) flood(src *source, application string, from, n, size int) {
	for i := range n {
		s.Publish(src.event(application, from+i, size))
		s.Flush()
	}
}

// holding counts an application's events in the stream and their bytes, as nats-server does.
func holding(t *testing.T, js jetstream.JetStream, application string) (events, bytes int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := js.CreateConsumer(ctx, subject.Stream(0), jetstream.ConsumerConfig{
		FilterSubject: subject.In(0, application), AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	for left := c.CachedInfo().NumPending; left > 0; {
		batch, err := c.FetchNoWait(1000)
		if err != nil {
			t.Fatal(err)
		}
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				t.Fatal(err)
			}
			events, left = events+1, meta.NumPending
			bytes += storedSize(m) + int64(len(m.Data()))
		}
		if batch.Error() != nil {
			t.Fatal(batch.Error())
		}
	}
	return events, bytes
}

// expectShare waits until the application holds no more than its share, and more than a
// step less, and says how many events that are. slack is for what is under way.
func expectShare(t *testing.T, s *site, application string, slack int64) (events int64) {
	t.Helper()
	g := s.lanes[0].ledger
	var bytes int64
	for range 100 {
		events, bytes = holding(t, s.js, application)
		if bytes <= g.share+slack {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("%s holds %d events, %d bytes: %.3f of its share", application, events, bytes, float64(bytes)/float64(g.share))
	if bytes < g.share-g.step || bytes > g.share+slack {
		t.Errorf("%s holds %d bytes, want %d to %d", application, bytes, g.share-g.step, g.share+slack)
	}
	return events
}

func TestANoisyApplicationEvictsItsOwnPastAndNobodyElses(t *testing.T) {
	for _, c := range []struct {
		mebibytes    int64
		events, size int
		most         int64
	}{
		{160, 8000, 30 << 10, 10_000_000},
		{4, 20_000, 300, 10_000_000},
		{1, 3000, 2000, 10_000_000},
		{1, 300, 40 << 10, 10_000_000},
		{4, 6000, 1000, 1000}, // its own number of events keeps it nearly below its share
	} {
		t.Run(fmt.Sprintf("%d MiB, %d events of %d bytes, %d kept", c.mebibytes, c.events, c.size, c.most), func(t *testing.T) {
			cfg := shareConfig(c.mebibytes)
			cfg.Retention.EventsPerApplication = c.most
			s := newSiteWith(t, natstest.Start(t).URL(), cfg, zaptest.NewLogger(t))
			quiet, noisy := newSource("quiet", 100), newSource("noisy", 2000)
			s.flood(quiet, "quiet", 0, 10, 100)
			s.flood(noisy, "noisy", 0, c.events, c.size)
			eventually(t, time.Minute, "all is stored", func() bool { return noisy.settled() == c.events })
			if n, _ := holding(t, s.js, "quiet"); n != 10 {
				t.Errorf("%d of 10 events of the quiet one are left", n)
			}
			expectShare(t, s, "noisy", int64(c.size)+1000)
			_, bytes := holding(t, s.js, "noisy")
			_, more := holding(t, s.js, "quiet")
			if info := streamInfo(t, s); int64(info.State.Bytes) != bytes+more {
				t.Errorf("the stream counts %d bytes, we %d", info.State.Bytes, bytes+more)
			}
			if !stream.Evicted(streamInfo(t, s).Config.Metadata, "noisy") || stream.Evicted(streamInfo(t, s).Config.Metadata, "quiet") {
				t.Error("the stream does not say whose events were taken out")
			}
			if n := testutil.ToFloat64(s.metrics.counts); n > 2 {
				t.Errorf("events were counted %v times for a publisher that is alone", n)
			}
		})
	}
}

func streamInfo(t *testing.T, s *site) *jetstream.StreamInfo {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	st, err := s.js.Stream(ctx, subject.Stream(0))
	if err != nil {
		t.Fatal(err)
	}
	return st.CachedInfo()
}

func TestAShareIsThatOfAllPublishersTogether(t *testing.T) {
	srv := natstest.Start(t)
	cfg := shareConfig(16)
	var sites []*site
	for range 3 {
		sites = append(sites, newSiteWith(t, srv.URL(), cfg, zaptest.NewLogger(t)))
	}
	quiet := newSource("quiet", 100)
	sites[0].flood(quiet, "quiet", 0, 10, 100)
	var all sync.WaitGroup
	for i, s := range sites {
		all.Go(func() {
			src := newSource(fmt.Sprint("noisy", i), 500)
			s.flood(src, "noisy", 0, 1500, []int{300, 4000, 20_000}[i]) // very different ones
			for src.settled() < 1500 {
				time.Sleep(time.Millisecond)
			}
		})
	}
	all.Wait()
	if n, _ := holding(t, sites[0].js, "quiet"); n != 10 {
		t.Errorf("%d of 10 events of the quiet one are left", n)
	}
	expectShare(t, sites[0], "noisy", 3*sites[0].lanes[0].ledger.step)
}

func TestWhatOthersPublishDuringAnAuditLetsNothingBeCountedAgain(t *testing.T) {
	srv := natstest.Start(t)
	ours := newSiteWith(t, srv.URL(), shareConfig(16), zap.NewNop())
	theirs := newSiteWith(t, srv.URL(), shareConfig(16), zap.NewNop())
	one, two := newSource("one", 100), newSource("two", 100)
	sent := map[*source]int{}
	publish := func(s *site, src *source, n int) {
		s.flood(src, "noisy", sent[src], n, 1000)
		sent[src] += n
		eventually(t, time.Minute, "all is stored", func() bool { return src.settled() == sent[src] })
	}
	publish(theirs, two, 3600) // nearly the share
	publish(ours, one, 200)
	l, u := ours.lanes[0], auditor{p: ours.Publisher, js: ours.js, counts: make(chan struct{}, 1)}
	audit := func() {
		var a *account
		eventually(t, time.Minute, "nobody else audits", func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			a = l.ledger.accounts["noisy"]
			if a.auditing {
				return false
			}
			a.auditing = true
			return true
		})
		u.audit(t.Context(), 0, l, a)
	}
	eventually(t, time.Minute, "it is counted for the first time", func() bool {
		publish(ours, one, 1)
		audit()
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.ledger.accounts["noisy"].through > 0
	})
	before := testutil.ToFloat64(ours.metrics.counted)
	const rounds = 20
	for range rounds {
		publish(ours, one, 50)
		publish(theirs, two, 50) // behind the end of our batch
		audit()
	}
	read := testutil.ToFloat64(ours.metrics.counted) - before
	t.Logf("%v events were read while %d were published", read, rounds*100)
	if read > rounds*100*2 {
		t.Errorf("%v events were read while %d were published", read, rounds*100)
	}
	if n := testutil.ToFloat64(ours.metrics.auditErrors); n > 0 {
		t.Errorf("%v audits have failed", n)
	}
}

func TestEventsNearAShareAreReadOnceHoweverManyPublishThem(t *testing.T) {
	srv := natstest.Start(t)
	const n, size = 12_000, 1000
	var sites []*site
	var all sync.WaitGroup
	for i := range 2 {
		s := newSiteWith(t, srv.URL(), shareConfig(16), zaptest.NewLogger(t))
		sites = append(sites, s)
		all.Go(func() {
			src := newSource(fmt.Sprint("noisy", i), 100)
			s.flood(src, "noisy", 0, n, size)
			for src.settled() < n {
				time.Sleep(time.Millisecond)
			}
		})
	}
	all.Wait()
	for _, s := range sites {
		counts, read := testutil.ToFloat64(s.metrics.counts), testutil.ToFloat64(s.metrics.counted)
		t.Logf("%v events were read, in %v times", read, counts)
		if read > 2*2*n { // some a second time: those behind the place up to which is counted
			t.Errorf("%v events were read of %d, in %v times", read, 2*n, counts)
		}
		if n := testutil.ToFloat64(s.metrics.auditErrors); n > 0 {
			t.Errorf("%v audits have failed", n)
		}
	}
	expectShare(t, sites[0], "noisy", 2*sites[0].lanes[0].ledger.step)
}

func TestAnApplicationOfBeforeEvictsNobodyUntilItIsCounted(t *testing.T) {
	srv := natstest.Start(t)
	const n, size = 450, 2300 // nearly a share each
	before := newSiteWith(t, srv.URL(), shareConfig(4), zaptest.NewLogger(t))
	quiet := newSource("quiet", 100)
	before.flood(quiet, "quiet", 0, 10, 100)
	for _, application := range []string{"noisy", "loud", "shrill"} {
		src := newSource(application, 500)
		before.flood(src, application, 0, n, size)
		eventually(t, time.Minute, "all is stored", func() bool { return src.settled() == n })
	}
	before.stop()

	cfg := shareConfig(4)
	cfg.Consumers = 1 // so nobody can count
	s := newSiteWith(t, srv.URL(), cfg, zaptest.NewLogger(t))
	eventually(t, time.Minute, "there is no room for a consumer", func() bool { // the ones before have gone
		_, err := s.js.CreateConsumer(t.Context(), subject.Stream(0), jetstream.ConsumerConfig{Durable: "only"})
		return err == nil
	})
	noisy := newSource("noisy again", 100)
	for at := 0; at < 4000; at += 100 {
		s.flood(noisy, "noisy", at, 100, 700) // others than before
		eventually(t, time.Minute, "all is stored", func() bool { return noisy.settled() == at+100 })
		if held := counted(t, s, "quiet"); held != 10 {
			t.Fatalf("%d of 10 events of the quiet one are left after %d of the noisy one", held, at+100)
		}
	}
	for _, application := range []string{"loud", "shrill"} {
		if held := counted(t, s, application); held < n*9/10 {
			t.Errorf("%d of %d events of the %s one are left", held, n, application)
		}
	}
	others := int64(2*n*(size+150) + 10*250)
	if bytes := int64(streamInfo(t, s).State.Bytes) - others; bytes > s.lanes[0].ledger.share*5/4 {
		t.Errorf("the noisy one holds %d bytes", bytes)
	}
}

func TestIngestsThatNoteAtTheSameTimeLoseNoNote(t *testing.T) {
	srv := natstest.Start(t)
	const n = 8
	var all sync.WaitGroup
	var s *site
	for i := range 2 {
		s = newSiteWith(t, srv.URL(), shareConfig(1), zap.NewNop())
		u := auditor{p: s.Publisher, js: s.js}
		all.Go(func() {
			for k := range n {
				a := &account{application: fmt.Sprint("app-", i, k), subject: "in.0.none"}
				if err := u.evict(t.Context(), 0, u.p.lanes[0], a, "seq", 2); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for i := range 2 {
		for k := range n {
			if !stream.Evicted(streamInfo(t, s).Config.Metadata, fmt.Sprint("app-", i, k)) {
				t.Errorf("the note of ingest %d about its eviction %d is gone", i, k)
			}
		}
	}
}

func TestABatchWaitsWhileTheStreamLetsEventsGo(t *testing.T) {
	n := &noted{}
	l := newLane(n, 100, 1<<20)
	l.queue.push(newSource("a", 10).message(0, 0, 10))
	now := start
	l.next(now, nil)
	l.purges(true)
	now = now.Add(answerTimeout + time.Second)
	if l.next(now, nil); l.kind == free {
		t.Error("given up while the stream cannot answer")
	}
	l.purges(false)
	now = now.Add(answerTimeout + time.Second)
	if l.next(now, nil); l.kind != free {
		t.Error("not given up afterwards")
	}
}

// counted is how many events the stream says to hold of an application.
func counted(t *testing.T, s *site, application string) uint64 {
	t.Helper()
	st, err := s.js.Stream(t.Context(), subject.Stream(0))
	if err != nil {
		t.Fatal(err)
	}
	info, err := st.Info(t.Context(), jetstream.WithSubjectFilter(subject.In(0, application)))
	if err != nil {
		t.Fatal(err)
	}
	return info.State.Subjects[subject.In(0, application)]
}

func TestAShareHoldsOverRestartsOfIngest(t *testing.T) {
	srv := natstest.Start(t)
	for round := range 5 {
		s := newSiteWith(t, srv.URL(), shareConfig(4), zaptest.NewLogger(t))
		quiet, noisy := newSource("quiet", 100), newSource(fmt.Sprint("noisy", round), 500)
		if round == 0 {
			s.flood(quiet, "quiet", 0, 10, 100)
		}
		// Each alone stays below the share, and sizes differ so that numbers tell nothing.
		n, size := 225, 3000
		if round%2 == 1 {
			n, size = 1800, 100
		}
		s.flood(noisy, "noisy", 0, n, size)
		eventually(t, time.Minute, "all is stored", func() bool { return noisy.settled() == n })
		if round < 2 {
			s.stop()
			continue
		}
		expectShare(t, s, "noisy", s.lanes[0].ledger.step)
		if n, _ := holding(t, s.js, "quiet"); n != 10 {
			t.Errorf("%d of 10 events of the quiet one are left", n)
		}
		s.stop()
	}
}

func TestNothingIsEvictedBeyondTheShareAfterSomebodyElseHasPurged(t *testing.T) {
	s := newSiteWith(t, natstest.Start(t).URL(), shareConfig(16), zaptest.NewLogger(t))
	noisy := newSource("noisy", 500)
	const size = 3000
	s.flood(noisy, "noisy", 0, 1200, size)
	eventually(t, time.Minute, "all is stored", func() bool { return noisy.settled() == 1200 })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	st, err := s.js.Stream(ctx, subject.Stream(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Purge(ctx, jetstream.WithPurgeSubject(subject.In(0, "noisy")), jetstream.WithPurgeKeep(100)); err != nil {
		t.Fatal(err)
	}
	s.flood(noisy, "noisy", 1200, 1100, size)
	eventually(t, time.Minute, "all is stored", func() bool { return noisy.settled() == 2300 })
	if n, _ := holding(t, s.js, "noisy"); n != 1200 {
		t.Errorf("%d events are left, want all 1,200: they are less than the share", n)
	}
	s.flood(noisy, "noisy", 2300, 2000, size)
	eventually(t, time.Minute, "all is stored", func() bool { return noisy.settled() == 4300 })
	expectShare(t, s, "noisy", size+1000)
}

func TestAShareHoldsInAClusterOverChangesOfTheLeader(t *testing.T) {
	c := natstest.StartCluster(t)
	s := newSiteWith(t, c.URL(), shareConfig(8), zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)))
	quiet, noisy := newSource("quiet", 100), newSource("noisy", 500)
	s.flood(quiet, "quiet", 0, 10, 100)
	const n = 4000
	done := make(chan struct{})
	go func() { defer close(done); s.flood(noisy, "noisy", 0, n, 3000) }()
	changes := 0
	for k := range 3 {
		eventually(t, time.Minute, "events flow", func() bool { return noisy.settled() > (k+1)*n/5 })
		changes += stepDown(t, s)
	}
	if changes == 0 {
		t.Error("the leader has not changed")
	}
	<-done
	eventually(t, time.Minute, "all is stored", func() bool { return noisy.settled() == n })
	if n, _ := holding(t, s.js, "quiet"); n != 10 {
		t.Errorf("%d of 10 events of the quiet one are left", n)
	}
	expectShare(t, s, "noisy", s.lanes[0].ledger.step)
}

func TestEventsDoNotWaitLongForAuditsThatFail(t *testing.T) {
	srv := natstest.Start(t)
	s := newSiteWith(t, srv.URL(), shareConfig(1), zap.NewNop())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cfg := streamInfo(t, s).Config
	cfg.DenyPurge = true
	if _, err := s.js.UpdateStream(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	noisy := newSource("noisy", 100)
	began := time.Now()
	s.flood(noisy, "noisy", 0, 2000, 2000)
	eventually(t, time.Minute, "all is stored", func() bool { return noisy.settled() == 2000 })
	if took := time.Since(began); took > maxHold+5*time.Second {
		t.Errorf("4 MB took %v", took)
	}
	if testutil.ToFloat64(s.metrics.auditErrors) == 0 {
		t.Error("nobody says that shares are not kept")
	}
}

func TestApplicationsNearTheirShareAreShownAndOthersAreNot(t *testing.T) {
	p := New(natstest.Start(t).Connect(), shareConfig(16), zap.NewNop(), prometheus.NewRegistry())
	g := p.lanes[0].ledger
	add := func(application string, share float64) {
		g.accounts[application] = &account{application: application, seen: time.Now(), own: run{bytes: int64(share * float64(g.share)), events: 1}}
	}
	add("small", 0.4)
	add("odd\xff name", 0.75)
	add("long ago", 0.9)
	g.accounts["long ago"].seen = time.Now().Add(-2 * time.Hour)
	for i := range 30 {
		add(fmt.Sprint("app-", i), 0.6)
	}
	if n := testutil.CollectAndCount(nearShare{p, time.Hour}); n != nearMost {
		t.Errorf("%d applications are shown, want %d", n, nearMost)
	}
	for i := range 30 {
		delete(g.accounts, fmt.Sprint("app-", i))
	}
	if n := testutil.CollectAndCount(nearShare{p, time.Hour}); n != 1 {
		t.Errorf("%d applications are shown, want the one that holds much and has published of late", n)
	}
	want := `canopy_ingest_application_share{application="odd=FF=20name"} 0.75`
	if err := testutil.CollectAndCompare(nearShare{p, time.Hour}, strings.NewReader(want+"\n")); err != nil && !strings.Contains(err.Error(), want) {
		t.Error(err)
	}
}

// BenchmarkPublishBesideANoisyApplication tells how long an event of a quiet application takes
// while a noisy one publishes as fast as it can, without and with a share. What it waits for
// is mostly the noisy one's events before it.
func BenchmarkPublishBesideANoisyApplication(b *testing.B) {
	for _, share := range []int{100, 25} {
		for _, size := range []int{300, 10_000} {
			b.Run(fmt.Sprintf("share=%d/bytes=%d", share, size), func(b *testing.B) {
				cfg := shareConfig(160)
				cfg.Retention.Share = share
				s := newSiteWith(b, natstest.Start(b).URL(), cfg, zap.NewNop())
				noisy, quiet := newSource("noisy", 100), newSource("quiet", 1)
				var mu sync.Mutex // Publish is for one goroutine
				publish := func(m *Message) {
					mu.Lock()
					defer mu.Unlock()
					s.Publish(m)
					s.Flush()
				}
				stop, done := make(chan struct{}), make(chan int)
				go func() {
					for i := 0; ; i++ {
						select {
						case <-stop:
							done <- i
							return
						default:
							publish(noisy.event("noisy", i, size))
						}
					}
				}()
				var all []time.Duration
				last := time.Now()
				b.ResetTimer()
				for i := range b.N {
					publish(quiet.event("quiet", i, 300)) // waits for the one before
					all, last = append(all, time.Since(last)), time.Now()
				}
				b.StopTimer()
				close(stop)
				n := <-done
				slices.Sort(all)
				b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
				b.ReportMetric(float64(all[len(all)-1].Microseconds()), "slowest-µs")
				b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "noisy/s")
				b.ReportMetric(testutil.ToFloat64(s.metrics.evicted), "evicted")
				b.ReportMetric(testutil.ToFloat64(s.metrics.counts), "counts")
			})
		}
	}
}
