package garbage

import "time"

const (
	// usual is Go's own percentage of what is alive that may be there as well before garbage is
	// collected, and most what it is raised to. Go multiplies its least heap of 4 MiB by it, too.
	usual = 100
	most  = 800

	// lie is how much garbage may lie in a busy process, in bytes.
	lie = 32 << 20

	// A process is busy if so many collections follow one another within busyTime, and what is
	// alive after the later half of them is not more, by a part and some bytes, than after the
	// first half: sockets that are opened stay, and stand closer together the sooner is collected
	// what their handshakes have left.
	busyTurns   = 8
	busyTime    = 2 * time.Second
	growthPart  = 7
	growthBytes = 512 << 10
)

// pacer decides how much garbage may lie. Times are since some beginning.
type pacer struct {
	percent int // see debug.SetGCPercent
	turns   int // collections that are noted
	live    [busyTurns]uint64
	at      [busyTurns]time.Duration
}

// collected notes the end of a collection, and how many bytes were alive. It says whether the
// percentage is another one now.
func (p *pacer) collected(live uint64, now time.Duration) (changed bool) {
	copy(p.live[:], p.live[1:])
	copy(p.at[:], p.at[1:])
	p.live[busyTurns-1], p.at[busyTurns-1] = live, now
	if p.turns++; p.turns < busyTurns {
		return false
	}
	first, later := sum(p.live[:busyTurns/2]), sum(p.live[busyTurns/2:])
	fit := max(usual, int(min(lie*100*busyTurns/2/max(later, 1), most)))
	switch {
	case later > first+first/growthPart+busyTurns/2*growthBytes:
		if p.percent == usual {
			return false
		}
		p.turns = 0 // what was alive while more might lie says nothing of what comes
		return p.set(usual)
	case p.percent > fit || p.percent == usual && now-p.at[0] <= busyTime:
		return p.set(fit) // also lower, where what is alive has grown slowly
	}
	return false
}

func sum(list []uint64) (all uint64) {
	for _, n := range list {
		all += n
	}
	return all
}

// slower lets the percentage be the usual one again if so little was allocated within a second
// that garbage is collected seldom then, too. It says whether it was another one.
func (p *pacer) slower(allocated, live uint64) (changed bool) {
	return allocated < max(calmBytes, live/2) && p.set(usual)
}

func (p *pacer) set(percent int) (changed bool) {
	changed, p.percent = percent != p.percent, percent
	return changed
}
