package drain

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"time"
)

const (
	subBuckets     = 32 // per power of two, so a bucket is at most 1/32 wider than its start
	largestExp     = 38 // the last bucket begins at about 2.4 hours
	histogramSlots = subBuckets * (largestExp + 2)
)

// Histogram counts durations in buckets whose width is at most 1/32 of the duration.
// The zero value is empty. It is a plain value: copying it copies the counts, and
// whoever shares one guards it.
type Histogram struct {
	counts [histogramSlots]uint64
	max    time.Duration
}

// Record counts d once; a negative d, which only a clock that was set back can make,
// counts as 0.
func (h *Histogram) Record(d time.Duration) {
	d = max(d, 0)
	h.max = max(h.max, d)
	h.counts[slot(uint64(d))]++
}

func slot(v uint64) int {
	if v < subBuckets {
		return int(v)
	}
	exp := bits.Len64(v) - bits.Len64(subBuckets)
	return min(subBuckets*exp+int(v>>exp), histogramSlots-1)
}

// slotEnd is the largest duration that slot i counts.
func slotEnd(i int) time.Duration {
	if i < 2*subBuckets {
		return time.Duration(i)
	}
	exp := i/subBuckets - 1
	return time.Duration(uint64(i-subBuckets*exp+1)<<exp - 1)
}

// Add counts in h everything that o has counted.
func (h *Histogram) Add(o *Histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.max = max(h.max, o.max)
}

// Count is the number of durations recorded.
func (h *Histogram) Count() uint64 {
	var n uint64
	for _, c := range h.counts {
		n += c
	}
	return n
}

// Quantile is a duration that the share q (0 to 1) of those recorded do not exceed; it
// errs upwards by at most 1/32. It is 0 if nothing was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	total := h.Count()
	if total == 0 {
		return 0
	}
	rank := max(uint64(q*float64(total)+0.5), 1)
	var seen uint64
	for i, n := range h.counts {
		if seen += n; seen >= rank {
			return min(slotEnd(i), h.max)
		}
	}
	return h.max
}

// Max is the longest duration recorded, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

type histogramJSON struct {
	Max    time.Duration `json:"max_ns"`
	Counts [][2]uint64   `json:"counts"` // slot and count of those that are not 0
}

// MarshalJSON writes the slots that are not empty.
func (h *Histogram) MarshalJSON() ([]byte, error) {
	out := histogramJSON{Max: h.max, Counts: [][2]uint64{}}
	for i, n := range h.counts {
		if n > 0 {
			out.Counts = append(out.Counts, [2]uint64{uint64(i), n})
		}
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (h *Histogram) UnmarshalJSON(b []byte) error {
	var in histogramJSON
	if err := json.Unmarshal(b, &in); err != nil {
		return fmt.Errorf("read histogram: %w", err)
	}
	*h = Histogram{max: in.Max}
	for _, pair := range in.Counts {
		if pair[0] >= histogramSlots {
			return fmt.Errorf("read histogram: slot %d is beyond the last one", pair[0])
		}
		h.counts[pair[0]] = pair[1]
	}
	return nil
}
