package drain

import "math/bits"

// maxWords bounds the span of one set: 16 million numbers, 2 MiB.
const maxWords = 1 << 18

// Numbers is a set of counters, for events that clients share. The zero value is empty.
type Numbers struct {
	First uint64   `json:"first"` // 64 numbers each, of the first word
	Words []uint64 `json:"words"`
}

// Add puts n into the set. It is false if n is in it already, or too far away from the
// others to be true.
func (s *Numbers) Add(n uint64) bool {
	word, bit := n/64, uint64(1)<<(n%64)
	if len(s.Words) == 0 {
		s.First = word
	}
	if word < s.First {
		more := s.First - word
		if more+uint64(len(s.Words)) > maxWords {
			return false
		}
		s.Words = append(make([]uint64, more), s.Words...)
		s.First = word
	}
	i := word - s.First
	if i >= maxWords {
		return false
	}
	for uint64(len(s.Words)) <= i {
		s.Words = append(s.Words, 0)
	}
	if s.Words[i]&bit != 0 {
		return false
	}
	s.Words[i] |= bit
	return true
}

// Merge adds all of o and gives how many of them were in s already.
func (s *Numbers) Merge(o *Numbers) (common uint64) {
	for i, word := range o.Words {
		for ; word != 0; word &= word - 1 {
			if !s.Add((o.First+uint64(i))*64 + uint64(bits.TrailingZeros64(word))) {
				common++
			}
		}
	}
	return common
}

// Len is how many numbers from from to to, both included, are in the set.
func (s *Numbers) Len(from, to uint64) (n uint64) {
	for i, word := range s.Words {
		base := (s.First + uint64(i)) * 64
		switch {
		case base > to || base+63 < from:
			continue
		case base < from:
			word &^= 1<<(from-base) - 1
		}
		if to-base < 63 {
			word &= 1<<(to-base+1) - 1
		}
		n += uint64(bits.OnesCount64(word))
	}
	return n
}
