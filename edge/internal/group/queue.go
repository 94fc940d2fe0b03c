package group

// queue is a first-in first-out list whose memory goes when it is empty.
type queue[T any] struct {
	items []T
	first int
}

func (q *queue[T]) len() int { return len(q.items) - q.first }

func (q *queue[T]) push(item T) { q.items = append(q.items, item) }

// front is the oldest item. There must be one.
func (q *queue[T]) front() *T { return &q.items[q.first] }

// pop takes the oldest item. There must be one.
func (q *queue[T]) pop() T {
	var none T
	item := q.items[q.first]
	q.items[q.first] = none
	q.first++
	switch {
	case q.first == len(q.items) && cap(q.items) > keepItems:
		q.items, q.first = nil, 0
	case q.first == len(q.items):
		q.items, q.first = q.items[:0], 0
	case q.first > len(q.items)/2 && q.first > keepItems:
		n := copy(q.items, q.items[q.first:])
		clear(q.items[n:])
		q.items, q.first = q.items[:n], 0
	}
	return item
}

// all gives every item, oldest first. They are valid until the next change.
func (q *queue[T]) all() []T { return q.items[q.first:] }

// keepItems is the size up to which an empty queue keeps its memory.
const keepItems = 16
