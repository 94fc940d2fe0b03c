package consume

import (
	"testing"
	"time"

	"canopy/ingest/internal/publish"
)

// handOut adds records with the given offsets and returns their indexes.
func handOut(t *testing.T, p *Partition, offsets ...int64) []uint64 {
	t.Helper()
	var list []uint64
	for _, o := range offsets {
		i, ok := p.add(record{offset: o, epoch: 7, bytes: 10, time: time.UnixMilli(o)})
		if !ok {
			t.Fatalf("offset %d was not taken", o)
		}
		list = append(list, i)
	}
	return list
}

func TestCommitIsTheEndOfTheSettledPrefixOverGapsInTheOffsets(t *testing.T) {
	w := newWindow(100, 1000)
	p := newPartition("t", 0, w)
	if at, due := p.due(); due {
		t.Fatalf("due %v before anything was settled", at)
	}
	i := handOut(t, p, 10, 13, 14, 99)
	for _, step := range []struct {
		settle int
		as     publish.Outcome
		want   int64
	}{
		{1, publish.Stored, -1},
		{0, publish.Stored, 14},
		{3, publish.Refused, 14},
		{2, publish.Stored, 100},
	} {
		p.Settled(i[step.settle], step.as)
		if at, _ := p.due(); at.offset != step.want {
			t.Errorf("after %d: commit %d, want %d", step.settle, at.offset, step.want)
		}
	}
	at, due := p.due()
	if !due || at != (position{100, 7}) {
		t.Fatalf("due %v %v", at, due)
	}
	p.wasCommitted(at)
	if _, due := p.due(); due {
		t.Error("committed, and due again")
	}
	if n, bytes := w.used(); n != 0 || bytes != 0 {
		t.Errorf("window holds %d records, %d bytes", n, bytes)
	}
}

func TestNothingBehindADroppedRecordIsCommitted(t *testing.T) {
	w := newWindow(100, 1000)
	p := newPartition("t", 0, w)
	i := handOut(t, p, 0, 1, 2)
	p.Settled(i[0], publish.Stored)
	p.Settled(i[1], publish.Dropped)
	p.Settled(i[2], publish.Stored)
	if at, _ := p.due(); at.offset != 1 {
		t.Errorf("commit %d, want 1", at.offset)
	}
	if n, _ := w.used(); n != 0 {
		t.Errorf("window holds %d records", n)
	}
}

func TestSettlingTwiceCountsOnce(t *testing.T) {
	w := newWindow(100, 1000)
	p := newPartition("t", 0, w)
	i := handOut(t, p, 0, 1)
	for range 3 {
		p.Settled(i[1], publish.Stored)
	}
	p.Settled(i[0], publish.Stored)
	p.Settled(i[0], publish.Stored)
	p.Settled(99, publish.Stored)
	if n, bytes := w.used(); n != 0 || bytes != 0 {
		t.Errorf("window holds %d records, %d bytes", n, bytes)
	}
}

func TestClosedPartitionTakesNothingAndTellsWhenItIsIdle(t *testing.T) {
	p := newPartition("t", 0, newWindow(100, 1000))
	i := handOut(t, p, 5)
	idle := p.close()
	if _, ok := p.add(record{offset: 6}); ok {
		t.Error("a closed partition took a record")
	}
	select {
	case <-idle:
		t.Error("idle with a record under way")
	default:
	}
	again := p.close()
	p.Settled(i[0], publish.Stored)
	<-idle
	<-again
	<-p.close()
}

func TestLagIsWhatWasNotReadAndTheAgeOfTheOldestUnsettled(t *testing.T) {
	p := newPartition("t", 0, newWindow(100, 1000))
	if lost := p.saw(0, 50, -1); lost != 0 {
		t.Errorf("%d lost", lost)
	}
	if n, _ := p.lag(); n != 0 {
		t.Errorf("lag %d before the first record", n)
	}
	i := handOut(t, p, 10, 11)
	p.Settled(i[0], publish.Stored)
	n, oldest := p.lag()
	if n != 38 || !oldest.Equal(time.UnixMilli(11)) {
		t.Errorf("lag %d since %v", n, oldest)
	}
	p.Settled(i[1], publish.Stored)
	if _, oldest := p.lag(); !oldest.Equal(time.UnixMilli(11)) {
		t.Errorf("behind since %v", oldest)
	}
	p.ends(12)
	handOut(t, p, 49)
	if n, _ := p.lag(); n != 0 {
		t.Errorf("lag %d at the end", n)
	}
}

func TestOffsetsBelowTheLogsStartAreLostOnce(t *testing.T) {
	p := newPartition("t", 0, newWindow(100, 1000))
	for _, step := range []struct{ start, from, want int64 }{{0, 3, 0}, {8, 3, 5}, {8, 3, 0}, {10, 3, 2}} {
		if got := p.saw(step.start, 20, step.from); got != step.want {
			t.Errorf("start %d: %d lost, want %d", step.start, got, step.want)
		}
	}
}

// FuzzCommitNeverPassesAnUnsettledRecord settles records in the order that data gives.
func FuzzCommitNeverPassesAnUnsettledRecord(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3})
	f.Add([]byte{9, 7, 7, 0, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		w := newWindow(1<<20, 1<<40)
		p := newPartition("t", 0, w)
		var offsets []int64
		var indexes []uint64
		settled := make(map[int64]publish.Outcome)
		next := int64(0)
		for _, b := range data {
			next += 1 + int64(b%3)
			offsets = append(offsets, next)
			indexes = append(indexes, handOut(t, p, next)...)
			k := int(b) % len(indexes)
			out := publish.Outcome(b % 3)
			p.Settled(indexes[k], out)
			if _, had := settled[offsets[k]]; !had {
				settled[offsets[k]] = out
			}
			want := int64(-1)
			for _, o := range offsets {
				if out, ok := settled[o]; !ok || out == publish.Dropped {
					break
				}
				want = o + 1
			}
			if at, _ := p.due(); at.offset != want {
				t.Fatalf("commit %d, want %d", at.offset, want)
			}
			if n, _ := w.used(); n != len(offsets)-len(settled) {
				t.Fatalf("window holds %d records, want %d", n, len(offsets)-len(settled))
			}
		}
	})
}

func TestWindowIsFullByRecordsAndByBytesButTakesOneThatIsLarger(t *testing.T) {
	w := newWindow(3, 100)
	if !w.fits(1000) {
		t.Error("an empty window must take one record of any size")
	}
	w.take(60)
	if w.fits(41) || !w.fits(40) {
		t.Error("bytes are not bounded")
	}
	w.take(20)
	w.take(20)
	if w.fits(0) || w.free() != 0 {
		t.Error("records are not bounded")
	}
	w.give(60)
	if !w.fits(60) || w.free() != 1 {
		t.Error("room was not given back")
	}
	select {
	case <-w.room:
	default:
		t.Error("nobody was told of the room")
	}
}
