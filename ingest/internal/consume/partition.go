package consume

import (
	"sync"
	"time"

	"canopy/ingest/internal/publish"
)

// Partition is one assignment of a Kafka partition to this ingest: the records of it that
// were handed over, in order, and how far they are settled. It is a publish.Owner. If the
// partition is revoked and comes back, it is another Partition.
//
// Settled may be called from any goroutine; everything else is the Consumer's.
type Partition struct {
	topic  string
	number int32
	window *window

	mu      sync.Mutex
	records []record // handed over and not yet part of the settled prefix, from index first
	first   uint64
	open    int  // records among them that are not settled
	closed  bool // nothing more is handed over

	// committable is where the next owner has to go on, as far as the settled prefix says.
	committable position
	committed   position
	next        int64 // offset behind the last record handed over; -1 before the first
	highWater   int64
	lastTime    time.Time     // of the last record handed over
	idle        chan struct{} // closed when open falls to 0, if somebody waits
}

// record is what is remembered of one record until it is committable. Offsets have gaps:
// transactions and compaction leave some out.
type record struct {
	offset int64
	epoch  int32
	bytes  int
	time   time.Time
	state  state
}

type state uint8

const (
	open    state = iota
	done          // stored, or never to be: it need not be read again
	dropped       // not known to be stored: nothing from here on is committed
)

// position is an offset to commit with its leader epoch. offset is -1 for none.
type position struct {
	offset int64
	epoch  int32
}

func newPartition(topic string, number int32, w *window) *Partition {
	none := position{offset: -1, epoch: -1}
	return &Partition{topic: topic, number: number, window: w, committable: none, committed: none, next: -1}
}

// add remembers a record that is about to be handed over, and names it. It is false if the
// partition has been closed.
func (p *Partition) add(r record) (index uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, false
	}
	p.window.take(r.bytes)
	p.records = append(p.records, r)
	p.open++
	p.next = r.offset + 1
	p.lastTime = r.time
	return p.first + uint64(len(p.records)-1), true
}

// Settled implements publish.Owner: the record index is stored, will never be, or has been
// dropped. What was dropped the partition's next owner reads again.
func (p *Partition) Settled(index uint64, o publish.Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if index < p.first || index-p.first >= uint64(len(p.records)) {
		return
	}
	r := &p.records[index-p.first]
	if r.state != open {
		return
	}
	r.state = done
	if o == publish.Dropped {
		r.state = dropped
	}
	p.open--
	p.window.give(r.bytes)
	p.advance()
	if p.open == 0 && p.idle != nil {
		close(p.idle)
		p.idle = nil
	}
}

// advance takes the settled prefix away.
func (p *Partition) advance() {
	n := 0
	for n < len(p.records) && p.records[n].state == done {
		n++
	}
	if n == 0 {
		return
	}
	last := p.records[n-1]
	p.committable = position{last.offset + 1, last.epoch}
	p.first += uint64(n)
	p.records = p.records[n:]
	if len(p.records) == 0 {
		p.records = nil
	}
}

// close lets nothing more be handed over, and returns a channel that is closed as soon as
// everything that was is settled.
func (p *Partition) close() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	idle := make(chan struct{})
	if p.open == 0 {
		close(idle)
		return idle
	}
	if p.idle != nil {
		return p.idle
	}
	p.idle = idle
	return idle
}

// due is the position to commit, and false if there is nothing new.
func (p *Partition) due() (position, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.committable, p.committable != p.committed && p.committable.offset >= 0
}

// wasCommitted remembers that at stands in Kafka.
func (p *Partition) wasCommitted(at position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.committed = at
}

// lag is how many records of the partition have not been handed over, and since when the
// oldest one that is not settled has been in Kafka; zero if there is none.
func (p *Partition) lag() (records int64, oldest time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next >= 0 {
		records = max(p.highWater-p.next, 0)
	}
	for i := range p.records {
		if p.records[i].state == open {
			return records, p.records[i].time
		}
	}
	if records > 0 {
		oldest = p.lastTime
	}
	return records, oldest
}

// saw notes what a fetch told of the partition's log: its end, and how many offsets before
// its start had not been read. from is where reading was to start if nothing was handed
// over yet, -1 if that is not known.
func (p *Partition) saw(start, end, from int64) (lost int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.highWater = max(p.highWater, end)
	if p.next >= 0 {
		from = p.next
	}
	if from < 0 || start <= from {
		return 0
	}
	p.next = start
	return start - from
}

// isNew says whether nothing has been handed over yet.
func (p *Partition) isNew() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.next < 0
}

// ends notes the end of the partition's log.
func (p *Partition) ends(at int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.highWater = max(p.highWater, at)
}
