package feed

import (
	"testing"
	"time"

	"canopy/shared/event"
)

// blockOf holds events with every sequence behind after, of 1 KiB together at least.
func blockOf(after, through uint64) *block {
	b := &block{log: 7, after: after, through: through, frames: make([]byte, 0, 1<<10)}
	for n := after + 1; n <= through; n++ {
		b.add(message{sequence: n, json: []byte(`{"n":1}`)})
	}
	return b
}

func TestKeptBlocksAreFoundByPlaceAndStayWithinTheirBudget(t *testing.T) {
	one, other := &Feed{}, &Feed{}
	now := time.Unix(1_000_000, 0)
	k := kept{limit: 20 << 10}
	k.add(one, blockOf(10, 10), now)
	if k.size() != 0 {
		t.Error("a block that leads nowhere is kept")
	}
	low, high := blockOf(10, 15), blockOf(20, 25)
	k.add(one, high, now)
	k.add(one, low, now)
	for _, c := range []struct {
		feed *Feed
		at   event.Cursor
		want *block
		next uint64
	}{
		{one, event.Cursor{Log: 7, Sequence: 9}, nil, 10},
		{one, event.Cursor{Log: 7, Sequence: 10}, low, 20},
		{one, event.Cursor{Log: 7, Sequence: 14}, low, 20},
		{one, event.Cursor{Log: 7, Sequence: 15}, nil, 20},
		{one, event.Cursor{Log: 7, Sequence: 20}, high, 1<<64 - 1},
		{one, event.Cursor{Log: 7, Sequence: 25}, nil, 1<<64 - 1},
		{one, event.Cursor{Log: 8, Sequence: 10}, nil, 1<<64 - 1},
		{other, event.Cursor{Log: 7, Sequence: 10}, nil, 1<<64 - 1},
	} {
		if b, next := k.find(c.feed, c.at), k.next(c.feed, c.at); b != c.want || next != c.next {
			t.Errorf("at %v: found %v, next at %d, want %v, %d", c.at, b, next, c.want, c.next)
		}
	}

	size := k.size()
	low.packed = [][]byte{make([]byte, 5<<10)}
	k.count(one, low)
	if grown := k.size() - size; grown < 5<<10 || grown > 6<<10 {
		t.Errorf("5 KiB of compressed frames count as %d bytes", grown)
	}
	for n := range uint64(50) {
		k.add(other, blockOf(10*n, 10*n+5), now.Add(time.Second))
		if k.size() > k.limit {
			t.Fatalf("%d bytes are kept", k.size())
		}
	}
	if k.find(one, event.Cursor{Log: 7, Sequence: 10}) != nil || k.find(other, event.Cursor{Log: 7, Sequence: 490}) == nil {
		t.Error("the oldest is still there, or the newest is not")
	}
	k.count(one, low) // which is gone
	k.add(one, low, now.Add(2*time.Second))
	k.trim(now.Add(2 * time.Second))
	if k.find(one, event.Cursor{Log: 7, Sequence: 10}) != low || k.size() != low.size() {
		t.Errorf("%d bytes are left of %d that are young enough", k.size(), low.size())
	}
	k.forget(other)
	k.forget(one)
	k.add(one, blockOf(10, 50_000), now)
	if k.size() != 0 || k.list.Len() != 0 || len(k.feeds) != 0 {
		t.Errorf("%d bytes are kept", k.size())
	}
}
