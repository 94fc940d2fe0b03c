package drain

import (
	"errors"
	"fmt"
	"time"
)

// Close codes that no close frame carries (RFC 6455, 7.4.1).
const (
	// NoCode counts sockets whose close frame had no code.
	NoCode = 1005
	// CutOff counts sockets that ended without a close frame.
	CutOff = 1006
)

// maxWrong bounds Snapshot.Wrong of one fleet.
const maxWrong = 4

// Snapshot is what a fleet has seen since it was opened or last reset. It is a copy:
// nothing changes it later.
type Snapshot struct {
	Sockets int `json:"sockets"` // that were opened
	Open    int `json:"open"`    // that neither a close frame nor the connection's end has closed
	Stalled int `json:"stalled"` // that are open and not read at the moment
	Pinged  int `json:"pinged"`  // that got one Ping at least

	Replaced uint64 `json:"replaced"` // cut off by Replace, and a new one opened

	Events    uint64 `json:"events"`     // numbered text messages
	Others    uint64 `json:"others"`     // text messages without a number
	Pings     uint64 `json:"pings"`      // answered
	LostPongs uint64 `json:"lost_pongs"` // pings whose answer the kernel did not take
	Bytes     uint64 `json:"bytes"`      // read from the sockets, frame headers included, handshakes not
	Reads     uint64 `json:"reads"`      // read calls that brought bytes
	Holes     uint64 `json:"holes"`      // events that were left out and have not come since
	Repeats   uint64 `json:"repeats"`    // events that came again
	Reorders  uint64 `json:"reorders"`   // events that came after a later one

	Wrong []string `json:"wrong,omitempty"` // the first events that were not the next ones, as they came

	Malformed uint64 `json:"malformed"`  // sockets ended because the server broke RFC 6455, or fragmented
	BadNumber uint64 `json:"bad_number"` // messages whose counter or time could not be read

	Numbers *Numbers `json:"numbers,omitempty"` // that have come, if sockets share events

	Closes  map[int]uint64 `json:"closes"`  // sockets by close code
	Reasons map[int]string `json:"reasons"` // by close code, the reason of the last socket that it closed

	First   time.Time `json:"first"`   // when the first numbered event was read; zero before it
	Last    time.Time `json:"last"`    // when the latest one was
	Latency Histogram `json:"latency"` // from an event's "at" to its reading
}

// Fault is an error that names everything that must never happen (a lost, repeated or
// reordered event, a frame that breaks the protocol), or nil.
func (s *Snapshot) Fault() error {
	var errs []error
	for _, f := range []struct {
		count uint64
		what  string
	}{
		{s.Holes, "events lost"},
		{s.Repeats, "events repeated"},
		{s.Reorders, "events out of order"},
		{s.Malformed, "sockets with a malformed frame"},
		{s.BadNumber, "events with an unreadable number"},
	} {
		if f.count > 0 {
			errs = append(errs, fmt.Errorf("%d %s", f.count, f.what))
		}
	}
	return errors.Join(errs...)
}

// Add puts what another fleet has seen into s.
func (s *Snapshot) Add(o *Snapshot) {
	s.Sockets += o.Sockets
	s.Open += o.Open
	s.Stalled += o.Stalled
	s.Pinged += o.Pinged
	s.Replaced += o.Replaced
	s.Events += o.Events
	s.Others += o.Others
	s.Pings += o.Pings
	s.LostPongs += o.LostPongs
	s.Bytes += o.Bytes
	s.Reads += o.Reads
	s.Holes += o.Holes
	s.Repeats += o.Repeats
	s.Reorders += o.Reorders
	s.Wrong = append(s.Wrong, o.Wrong...)
	s.Malformed += o.Malformed
	s.BadNumber += o.BadNumber
	if o.Numbers != nil {
		if s.Numbers == nil {
			s.Numbers = &Numbers{}
		}
		s.Repeats += s.Numbers.Merge(o.Numbers)
	}
	if s.Closes == nil {
		s.Closes, s.Reasons = map[int]uint64{}, map[int]string{}
	}
	for code, n := range o.Closes {
		s.Closes[code] += n
	}
	for code, reason := range o.Reasons {
		s.Reasons[code] = reason
	}
	if s.First.IsZero() || !o.First.IsZero() && o.First.Before(s.First) {
		s.First = o.First
	}
	if o.Last.After(s.Last) {
		s.Last = o.Last
	}
	s.Latency.Add(&o.Latency)
}
