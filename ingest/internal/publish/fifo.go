package publish

// fifo is a queue of messages whose front can be looked into. Its zero value is empty.
type fifo struct {
	items []*Message
	head  int
}

func (q *fifo) len() int { return len(q.items) - q.head }

// at is the message with i others before it.
func (q *fifo) at(i int) *Message { return q.items[q.head+i] }

func (q *fifo) push(m *Message) {
	if q.head > 0 && len(q.items) == cap(q.items) && q.head >= len(q.items)/2 {
		// Growing would keep the room before head for ever.
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, m)
}

// pop takes the message at the front away.
func (q *fifo) pop() *Message {
	m := q.items[q.head]
	q.items[q.head] = nil
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return m
}

// remove takes out those of the messages from i up to, and without, j that are unwanted,
// gives each to dropped, and tells how many they were.
func (q *fifo) remove(i, j int, unwanted func(*Message) bool, dropped func(*Message)) int {
	kept := q.head + i
	for k := q.head + i; k < q.head+j; k++ {
		m := q.items[k]
		if unwanted(m) {
			dropped(m)
			continue
		}
		q.items[kept] = m
		kept++
	}
	n := q.head + j - kept
	if n == 0 {
		return 0
	}
	rest := copy(q.items[kept:], q.items[q.head+j:])
	clear(q.items[kept+rest:])
	q.items = q.items[:kept+rest]
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return n
}
