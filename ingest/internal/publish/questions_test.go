package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/shared/event"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

func names(list []beacon) (s string) {
	for _, b := range list {
		s += b.application + " "
	}
	return s
}

func TestQuestionsAreTakenInOrderShardByShard(t *testing.T) {
	q := newQuestions(3, 100)
	for i := range questionsAtOnce + 2 {
		q.add(2, beacon{application: fmt.Sprint(i)})
	}
	q.add(0, beacon{application: "a"})
	q.add(0, beacon{application: "b"})
	q.add(0, beacon{application: "a", sequence: 7}) // a newer one keeps the turn
	if shard, list, _ := q.take(start); shard != 0 || names(list) != "a b " || list[0].sequence != 7 {
		t.Errorf("first: %d %v", shard, list)
	}
	if shard, list, _ := q.take(start); shard != 2 || len(list) != questionsAtOnce || list[1].application != "1" {
		t.Errorf("second: %d %v", shard, list)
	}
	if shard, list, _ := q.take(start); shard != 2 || names(list) != "64 65 " {
		t.Errorf("third: %d %v", shard, list)
	}
	if _, list, waiting := q.take(start); len(list) != 0 || waiting {
		t.Errorf("in the end: %v %v", list, waiting)
	}
}

func TestQuestionsThatWereNotAnsweredWaitAndGiveWayToNewerOnes(t *testing.T) {
	q := newQuestions(1, 2)
	q.add(0, beacon{application: "a"})
	_, list, _ := q.take(start)
	q.add(0, beacon{application: "a", through: 9})
	q.putBack(0, append(list, beacon{application: "b"}, beacon{application: "beyond"}), start.Add(time.Second))
	if _, list, waiting := q.take(start); len(list) != 0 || !waiting {
		t.Errorf("before its time: %v %v", list, waiting)
	}
	if _, list, _ := q.take(start.Add(time.Second)); names(list) != "a b " || list[0].through != 9 {
		t.Errorf("then: %v", list)
	}
}

func TestQuestionIsPutOnlySomeTimes(t *testing.T) {
	list, n := []beacon{{application: "a"}}, 0
	for len(list) > 0 {
		list = triedAgain(list)
		n++
	}
	if n != questionTries {
		t.Errorf("%d times", n)
	}
}

// TestReplicaThatLagsIsNotBelieved answers in the place of a stream.
func TestReplicaThatLagsIsNotBelieved(t *testing.T) {
	nc := natstest.Start(t).Connect()
	p := New(nc, ingestConfig(1), zap.NewNop(), prometheus.NewRegistry())
	p.beacons.known(0, 1)
	var through, sequence atomic.Int64
	if _, err := nc.Subscribe("$JS.API.DIRECT.GET."+subject.Stream(0), func(m *nats.Msg) {
		var ask struct {
			Subjects []string `json:"multi_last"`
		}
		if err := json.Unmarshal(m.Data, &ask); err != nil || len(ask.Subjects) != 1 {
			t.Errorf("%s: %v", m.Data, err)
			return
		}
		one, end := nats.NewMsg(m.Reply), nats.NewMsg(m.Reply)
		one.Header.Set("Nats-Subject", ask.Subjects[0])
		one.Header.Set("Nats-Sequence", fmt.Sprint(sequence.Load()))
		end.Header = nats.Header{"Status": {"204"}, "Nats-Num-Pending": {"0"}, "Nats-UpTo-Sequence": {fmt.Sprint(through.Load())}}
		_, _ = nc.PublishMsg(one), nc.PublishMsg(end)
	}); err != nil {
		t.Fatal(err)
	}
	sub, err := nc.SubscribeSync("events.>")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(has, last int64) {
		through.Store(has)
		sequence.Store(last)
		_, list, _ := p.beacons.questions.take(time.Now().Add(time.Minute))
		if len(list) != 1 {
			t.Fatalf("%d questions wait, want 1", len(list))
		}
		p.beacons.answer(t.Context(), 0, list)
	}
	p.beacons.questions.add(0, beacon{application: "a", through: 20})
	ask(19, 3)
	ask(20, 18)
	if _, cursor := nextBeacon(t, sub); cursor.Sequence != 18 {
		t.Errorf("told %v", cursor)
	}
	if _, list, _ := p.beacons.questions.take(time.Now().Add(time.Minute)); len(list) != 0 {
		t.Errorf("asked again: %v", list)
	}
}

func TestApplicationsOfTwoIngestsThatFallQuietTogetherAreAllToldSoon(t *testing.T) {
	const applications = 10_000
	srv := natstest.Start(t)
	sites := []*site{newSite(t, srv.URL(), 1, zap.NewNop()), newSite(t, srv.URL(), 1, zap.NewNop())}
	var mu sync.Mutex
	told := map[string]uint64{}
	sub, err := srv.Connect().Subscribe("events.>", func(m *nats.Msg) {
		if c, err := event.ParseCursor(m.Header.Get(event.HeaderBeacon)); err == nil {
			mu.Lock()
			told[m.Subject] = c.Sequence
			mu.Unlock()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for k, s := range sites {
		wg.Go(func() {
			src := newSource(fmt.Sprint("s", k), 4000)
			for i := range applications / 2 {
				s.Publish(src.messageOf(fmt.Sprint("app", 2*i+k), i))
				if i%200 == 199 {
					s.Flush()
				}
			}
		})
	}
	wg.Wait()
	// It takes about 2 s; before questions waited for their turn it took over 30 s.
	eventually(t, 20*time.Second, "all are told", func() bool { mu.Lock(); defer mu.Unlock(); return len(told) == applications })
	asked := counterValue(sites[0].metrics.questions) + counterValue(sites[1].metrics.questions)
	if asked == 0 {
		t.Error("nothing was asked: the ingests did not publish into each other's batches")
	}
	t.Logf("%v questions", asked)
	mu.Lock()
	defer mu.Unlock()
	seen := map[uint64]bool{}
	for _, sequence := range told {
		seen[sequence] = true // each has one event, so no two have the same
	}
	if len(seen) != applications {
		t.Errorf("%d different sequences are told", len(seen))
	}
}

func TestLastSequencesComeInSeveralAnswersWhenEventsAreBig(t *testing.T) {
	s := newSite(t, natstest.Start(t).URL(), 1, zap.NewNop())
	src := newSource("a", 100)
	const big = 4
	var list []beacon
	for i := range big {
		m := src.messageOf(fmt.Sprint("app", i), i)
		m.Data = append([]byte(`{"n":1}`), make([]byte, questionBytes/2)...)
		s.Publish(m)
		list = append(list, beacon{application: m.Application})
	}
	s.Flush()
	eventually(t, 20*time.Second, "stored", func() bool { return src.settled() == big })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	last, through, more, err := s.beacons.lastSequences(ctx, 0, list)
	if err != nil || !more || through != big || len(last) == 0 || len(last) == big {
		t.Errorf("%v through %d, more %v: %v", last, through, more, err)
	}
}
