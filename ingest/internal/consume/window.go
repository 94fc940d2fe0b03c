package consume

import "sync"

// window bounds the records that were handed over and are not settled. Any goroutine may
// use it.
type window struct {
	maxRecords int
	maxBytes   int64

	mu      sync.Mutex
	records int
	bytes   int64
	room    chan struct{} // holds a token when there may be room again
}

func newWindow(records int, bytes int64) *window {
	return &window{maxRecords: records, maxBytes: bytes, room: make(chan struct{}, 1)}
}

// fits says whether a record of n bytes may be taken. One that is larger than the whole
// window may when it is alone.
func (w *window) fits(n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.records == 0 || w.records < w.maxRecords && w.bytes+int64(n) <= w.maxBytes
}

// free is how many records may be taken.
func (w *window) free() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bytes >= w.maxBytes {
		return 0
	}
	return w.maxRecords - w.records
}

func (w *window) take(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.records++
	w.bytes += int64(n)
}

func (w *window) give(n int) {
	w.mu.Lock()
	w.records--
	w.bytes -= int64(n)
	// Room is told of when an eighth is free: larger polls make larger batches.
	little := w.records > w.maxRecords-(w.maxRecords+7)/8 || w.bytes > w.maxBytes-w.maxBytes/8
	little = little && w.records > 0
	w.mu.Unlock()
	if little {
		return
	}
	select {
	case w.room <- struct{}{}:
	default:
	}
}

// used is what is taken now.
func (w *window) used() (records int, bytes int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.records, w.bytes
}
