package group

import "canopy/shared/event"

// outcome is what a rotation has decided and a worker is to do, in this order.
type outcome struct {
	failures []failure // what other edges must know, before anything is handed back

	acks, naks, later, progress []string // replies

	writes []write
	events []*delivery // of all writes, end to end

	lost  []uint64    // events that the log has forgotten and nobody can give any more
	ceded []uint64    // events that it has forgotten after they were left to JetStream
	told  []event.Gap // that members have had

	aside  []event.Gap // which tell of events that are set aside from now on
	untold []event.Gap // that no member takes

	repeated int // of these, how many some other member may have had
	slowed   int // members that were found slow

	silent []*Member // did not answer; they are among ended too
	ended  []*Member // nothing is written to them any more
}

// write is what one member gets at once.
type write struct {
	member *Member
	from   int // in outcome.events
	to     int
	ping   uint64 // counter of the Ping behind the events, 0 for none
}

func (o *outcome) add(m *Member, events []*delivery, ping uint64) {
	from := len(o.events)
	o.events = append(o.events, events...)
	o.writes = append(o.writes, write{m, from, len(o.events), ping})
}

func (o *outcome) empty() bool {
	return len(o.acks)+len(o.naks)+len(o.later)+len(o.progress)+len(o.writes)+len(o.silent)+len(o.ended)+len(o.lost)+len(o.ceded)+len(o.told)+len(o.failures)+len(o.aside)+len(o.untold)+o.slowed == 0
}

// reset gives an empty outcome that keeps o's memory, unless it is much.
func (o *outcome) reset() outcome {
	return outcome{
		acks: recycle(o.acks), naks: recycle(o.naks), later: recycle(o.later), progress: recycle(o.progress),
		writes: recycle(o.writes), events: recycle(o.events), silent: recycle(o.silent), ended: recycle(o.ended),
	}
}

// maxKept is the size up to which a list keeps its memory while it is empty.
const maxKept = 256

func recycle[T any](list []T) []T {
	if cap(list) > maxKept {
		return nil
	}
	clear(list)
	return list[:0]
}
