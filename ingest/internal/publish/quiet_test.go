package publish

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// said is what a quiet tells at a time after start, "name=sequence" each.
func said(q *quiet, after time.Duration) string {
	s := ""
	for _, b := range q.next(start.Add(after), make([]beacon, 0, 1000)) {
		s += fmt.Sprintf("%s=%d ", b.application, b.sequence)
	}
	return s
}

func TestQuietApplicationIsToldAfterTimesThatDoubleAndForgotten(t *testing.T) {
	q := newQuiet(10)
	q.known(start, "a", 7)
	last := time.Duration(0)
	for i, after := range quietAfter {
		if got := said(q, after-time.Millisecond); got != "" {
			t.Errorf("before %v: %q", after, got)
		}
		if got := said(q, after); got != "a=7 " {
			t.Errorf("after %v: %q", after, got)
		}
		// An edge that is cut off for d hears within d of its return, or 3 s.
		if i > 0 && after-last > max(last, 3*time.Second) {
			t.Errorf("between %v and %v an edge waits too long", last, after)
		}
		last = after
	}
	if got := said(q, time.Hour); got != "" || len(q.apps) != 0 {
		t.Errorf("it is remembered for ever: %q", got)
	}
}

func TestLateBeaconIsSaidOnce(t *testing.T) {
	q := newQuiet(10)
	q.known(start, "a", 7)
	if got := said(q, 11*time.Second); got != "a=7 " {
		t.Errorf("told %q", got)
	}
	if got := said(q, time.Minute); got != "a=7 " {
		t.Errorf("then told %q", got)
	}
	if len(q.apps) != 0 {
		t.Error("it is remembered for ever")
	}
}

func TestApplicationThatIsNotQuietIsNotTold(t *testing.T) {
	q := newQuiet(10)
	for i := range 100 {
		at := time.Duration(i) * 200 * time.Millisecond
		q.known(start.Add(at), "a", uint64(i+1))
		if got := said(q, at+199*time.Millisecond); got != "" {
			t.Fatalf("at %v: %q", at, got)
		}
	}
	at := 99 * 200 * time.Millisecond
	if got := said(q, at+250*time.Millisecond); got != "a=100 " {
		t.Errorf("then: %q", got)
	}
	q.known(start.Add(at+time.Second), "a", 101)
	if got := said(q, at+2*time.Second); got != "a=101 " {
		t.Errorf("after it was quiet once: %q", got)
	}
}

func TestEndOfABatchTellsSequencesOnlyAsFarAsTheyAreCertain(t *testing.T) {
	for _, c := range []struct {
		name       string
		contiguous bool
		want       string
	}{
		{"the stream took nothing else", true, "a=9 b=8 c=10 "},
		{"others published, too", false, "a=0 b=0 c=10 "},
	} {
		q := newQuiet(10)
		q.inBatch(start, "a", 1, 1)
		q.inBatch(start, "b", 1, 2)
		q.inBatch(start, "a", 1, 3)
		q.inBatch(start, "c", 1, 4)
		q.ended(1, 10, 4, c.contiguous)
		got := map[string]uint64{}
		for _, b := range q.next(start.Add(time.Second), make([]beacon, 0, 10)) {
			got[b.application] = b.sequence
		}
		if s := fmt.Sprintf("a=%d b=%d c=%d ", got["a"], got["b"], got["c"]); s != c.want {
			t.Errorf("%s: %s, want %s", c.name, s, c.want)
		}
	}
}

func TestBatchThatFailsTellsNothing(t *testing.T) {
	q := newQuiet(10)
	q.known(start, "a", 5)
	q.inBatch(start, "a", 1, 1)
	q.failed()
	q.ended(2, 50, 1, true)
	if got := said(q, time.Second); got != "a=0 " {
		t.Errorf("told %q", got)
	}
}

func TestAnswerCountsOnlyIfTheApplicationIsStillQuiet(t *testing.T) {
	q := newQuiet(10)
	q.inBatch(start, "a", 1, 1)
	q.ended(1, 13, 2, false)
	b := q.next(start.Add(time.Second), make([]beacon, 0, 1))[0]
	if !q.learned(b, 12) {
		t.Error("the answer was not taken")
	}
	if got := said(q, 2*time.Second); got != "a=12 " {
		t.Errorf("told %q", got)
	}
	q.known(start.Add(3*time.Second), "a", 20)
	if q.learned(b, 13) {
		t.Error("a late answer was taken")
	}
	if got := said(q, 4*time.Second); got != "a=20 " {
		t.Errorf("told %q", got)
	}
}

func TestOneThatHasBeenQuietForLongestGivesWay(t *testing.T) {
	q := newQuiet(3)
	for i := range 5 {
		q.known(start.Add(time.Duration(i)), fmt.Sprint(i), uint64(i+1))
	}
	if got := said(q, time.Second); got != "2=3 3=4 4=5 " {
		t.Errorf("told %q", got)
	}
	q.known(start.Add(time.Second), "5", 6)
	if len(q.apps) != 3 {
		t.Errorf("%d remembered", len(q.apps))
	}
	if got := said(q, 2*time.Second+time.Millisecond); got != "3=4 4=5 5=6 " {
		t.Errorf("told %q", got)
	}
}

// TestLaneTellsOnlySequencesThatAreTrue runs a lane against a stream that others publish
// to now and then, and compares with the stream.
func TestLaneTellsOnlySequencesThatAreTrue(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		o := newOwner(t)
		l := newLane(&noted{}, 100, 0)
		now := start
		sequence := uint64(r.IntN(5))
		last := map[string]uint64{}
		told, unknown := 0, 0
		for i := 0; i < 200; {
			for range r.IntN(5) + 1 {
				m := &Message{Owner: o, Index: uint64(i), Application: fmt.Sprint("app", r.IntN(4)), Subject: "in.0.x"}
				m.prepare()
				l.queue.push(m)
				i++
			}
			for l.queue.len() > 0 {
				td := l.next(now, nil)
				for _, m := range td.messages {
					if seed%2 == 1 && r.IntN(6) == 0 {
						sequence++ // of another ingest
					}
					sequence++
					last[m.Application] = sequence
				}
				a := answer{Stream: "S", Seq: sequence}
				if !td.alone {
					a.Count = uint64(len(td.messages))
				}
				l.answered(now, td.id, a)
			}
			now = now.Add(300 * time.Millisecond)
			for _, b := range l.quiet.next(now, make([]beacon, 0, 100)) {
				switch b.sequence {
				case 0:
					unknown++
				case last[b.application]:
					told++
				default:
					t.Fatalf("seed %d: %s=%d, but its last is %d", seed, b.application, b.sequence, last[b.application])
				}
			}
		}
		if seed%2 == 0 && unknown > 0 || told == 0 {
			t.Errorf("seed %d: %d told, %d unknown", seed, told, unknown)
		}
	}
}

func TestSequenceThatGoesBackMeansAnotherStream(t *testing.T) {
	o := newOwner(t)
	l, n := freshLane(t, o, start)
	l.high = 100
	l.quiet.known(start, "a", 99)
	push(l, o, 1, 2)
	td := expect(t, l, start, "1 end")
	l.answered(start, td.id, answer{Stream: "S", Count: 1, Seq: 3})
	if got := fmt.Sprint(n.log); got != "[stored 1 stored 1 lost]" {
		t.Error(got)
	}
	if got := said(l.quiet, time.Minute); got != "a=0 " {
		t.Errorf("told of the old stream: %q", got)
	}
}

func TestLaneReportsAStreamThatNobodyAnswersFor(t *testing.T) {
	o := newOwner(t)
	n := &noted{}
	l := newLane(n, 100, 0)
	push(l, o, 0, 1)
	now := start
	for i := range lostAfter {
		if len(n.log) != i {
			t.Fatalf("after %d attempts: %v", i, n.log)
		}
		td := expect(t, l, now, "0 alone")
		l.answered(now, td.id, answer{Error: errNoResponders})
		now = now.Add(maxBackoff)
	}
	if got := n.log[len(n.log)-1]; got != "lost" {
		t.Error(n.log)
	}
}

func BenchmarkQuiet(b *testing.B) {
	for _, apps := range []int{1, 10_000, 100_000} {
		b.Run(fmt.Sprintf("applications=%d", apps), func(b *testing.B) {
			names := make([]string, apps)
			for i := range names {
				names[i] = fmt.Sprint("application-", i)
			}
			q := newQuiet(quietApps)
			b.ReportAllocs()
			for i := range b.N {
				q.inBatch(start, names[i%apps], uint64(i/100+1), uint64(i%100+1))
				if i%100 == 99 {
					q.ended(uint64(i/100+1), uint64(i), 100, true)
				}
			}
		})
	}
}
