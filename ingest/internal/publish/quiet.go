package publish

import (
	"container/list"
	"strings"
	"time"
)

// quietAfter is for how long an application must have been quiet for each of its beacons.
// The first comes soon, for a socket that misses its last event. The others are for edges
// that did not get those before: once an edge is reached again it is told after no longer
// than it was cut off, up to 40 s. Each costs about as much as a live event that nobody
// stores, so there are few.
var quietAfter = [...]time.Duration{
	250 * time.Millisecond, 2 * time.Second, 5 * time.Second, 10 * time.Second, 20 * time.Second, 40 * time.Second,
}

// quiet remembers the applications of one lane whose events were stored lately, with the
// last sequence of each as far as it is known, until their last beacon is due. The lists
// are ordered by time without any sorting: within one all wait equally long.
//
// All methods need the lane's lock.
type quiet struct {
	limit int // applications; the one that has been quiet for longest gives way
	apps  map[string]*list.Element
	due   [len(quietAfter)]*list.List // of *quietApp, by the number of beacons before

	// open holds those with events in the open batch, whose sequences only its end tells.
	open []*quietApp
}

type quietApp struct {
	name  string
	stage int       // beacons that were due before
	at    time.Time // of the last acknowledgement

	sequence uint64 // 0: not known
	attempt  uint64 // in whose batch the last event was
	place    uint64 // of that event in the batch
	through  uint64 // sequence at the end of that batch; 0: not known, or not needed
}

// beacon is what is due to be said about an application.
type beacon struct {
	application string
	sequence    uint64    // 0: the stream has to be asked
	at          time.Time // of the acknowledgement that it is about
	through     uint64    // who has this sequence can tell; 0: nobody can tell for certain
	tries       int       // questions that told nothing
}

func newQuiet(limit int) *quiet {
	q := &quiet{limit: limit, apps: make(map[string]*list.Element)}
	for i := range q.due {
		q.due[i] = list.New()
	}
	return q
}

// known notes that an event of the application was stored as sequence.
func (q *quiet) known(now time.Time, application string, sequence uint64) {
	if a := q.touch(now, application); a != nil {
		a.sequence = max(a.sequence, sequence)
		a.attempt = 0
	}
}

// inBatch notes that an event of the application was stored, at a place in the batch of
// attempt, which is still open.
func (q *quiet) inBatch(now time.Time, application string, attempt, place uint64) {
	a := q.touch(now, application)
	if a == nil {
		return
	}
	if a.attempt != attempt {
		a.attempt = attempt
		q.open = append(q.open, a)
	}
	a.sequence, a.place, a.through = 0, place, 0
}

// ended notes what the end of attempt's batch tells: sequence is that of its event number
// count, and all of them follow upon each other if contiguous.
func (q *quiet) ended(attempt, sequence, count uint64, contiguous bool) {
	for _, a := range q.open {
		switch {
		case a.attempt != attempt:
		case a.place == count || contiguous && a.place < count:
			a.sequence = sequence - (count - a.place)
		default:
			a.through = sequence
		}
	}
	q.failed()
}

// failed notes that the open batch will tell nothing.
func (q *quiet) failed() {
	clear(q.open)
	q.open = q.open[:0]
}

// touch gives the application's entry, quiet from now on; nil for no application.
func (q *quiet) touch(now time.Time, application string) *quietApp {
	if application == "" {
		return nil
	}
	e := q.apps[application]
	if e == nil {
		if len(q.apps) >= q.limit {
			q.forgetOldest()
		}
		// The name may be a part of the whole record.
		a := &quietApp{name: strings.Clone(application), at: now}
		q.apps[a.name] = q.due[0].PushBack(a)
		return a
	}
	a := e.Value.(*quietApp)
	a.at = now
	if a.stage == 0 {
		q.due[0].MoveToBack(e)
		return a
	}
	q.move(e, a, 0)
	return a
}

func (q *quiet) move(e *list.Element, a *quietApp, stage int) {
	q.due[a.stage].Remove(e)
	a.stage = stage
	q.apps[a.name] = q.due[stage].PushBack(a)
}

func (q *quiet) forgetOldest() {
	for stage := len(q.due) - 1; stage >= 0; stage-- {
		if e := q.due[stage].Front(); e != nil {
			q.forget(e)
			return
		}
	}
}

func (q *quiet) forget(e *list.Element) {
	a := e.Value.(*quietApp)
	q.due[a.stage].Remove(e)
	delete(q.apps, a.name)
	if len(q.apps) == 0 {
		q.apps = make(map[string]*list.Element) // a map never gives its room back
	}
}

// next appends to list what is due at now, at most up to its capacity. What is late is said
// once for all the times that have passed.
func (q *quiet) next(now time.Time, list []beacon) []beacon {
	// From the last list on, so that those that have been quiet for longer go before.
	for stage := len(q.due) - 1; stage >= 0; stage-- {
		for len(list) < cap(list) {
			e := q.due[stage].Front()
			if e == nil {
				break
			}
			a := e.Value.(*quietApp)
			passed := now.Sub(a.at)
			if passed < quietAfter[stage] {
				break
			}
			list = append(list, beacon{application: a.name, sequence: a.sequence, at: a.at, through: a.through})
			to := stage
			for to < len(q.due) && passed >= quietAfter[to] {
				to++
			}
			if to == len(q.due) {
				q.forget(e)
			} else {
				q.move(e, a, to)
			}
		}
	}
	return list
}

// learned notes a stream's answer about an application, if nothing of it has been stored
// since. It says whether that is so. An answer that a replica may have given that lags is
// not kept, so that the next beacon asks again.
func (q *quiet) learned(b beacon, sequence uint64) bool {
	e := q.apps[b.application]
	if e == nil {
		return true // it was the last question about it
	}
	a := e.Value.(*quietApp)
	if !a.at.Equal(b.at) {
		return false
	}
	if b.through > 0 {
		a.sequence = sequence
	}
	return true
}

// unsure forgets all sequences: they may be those of another stream.
func (q *quiet) unsure() {
	for _, e := range q.apps {
		a := e.Value.(*quietApp)
		a.sequence, a.attempt, a.through = 0, 0, 0
	}
	q.failed()
}
