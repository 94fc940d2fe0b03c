package feed

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/singleflight"

	"canopy/shared/event"
	"canopy/shared/subject"
)

const (
	// sharedRepairs is how many feeds of a stream must repair at once for them to read
	// windows of all its messages together, instead of each its own messages one by one:
	// after an outage they all miss the same stretch of the stream.
	sharedRepairs = 4

	// windowsAhead is how many windows a feed looks through for its next message before it
	// asks for that alone.
	windowsAhead = 8

	// windowSteps is how many windows are read, one behind the other, to come to a place.
	windowSteps = 8

	keptWindows = 1024 // of all streams
)

// window is a stretch of a stream, read once for all feeds. It never changes.
type window struct {
	shard         int
	log           event.Log
	from, through uint64
	bytes         int
	messages      map[string][]message // by subject, in order
}

// windows are those of one stream. Any goroutine may call it.
type windows struct {
	shard     int
	shelf     *shelf
	repairing atomic.Int64 // feeds of this stream
	reading   singleflight.Group
}

// leave forgets the windows when nobody repairs any more.
func (w *windows) leave() {
	if w.repairing.Add(-1) == 0 {
		w.shelf.clear(w.shard)
	}
}

// shelf keeps the windows of all streams that were read lately, with limit bytes at most.
// Any goroutine may call it.
type shelf struct {
	limit int64

	mu    sync.Mutex
	list  []*window // the one that was read last comes last
	bytes int64
}

// find gives a window of a shard's stream that holds sequence and, if behind, goes on
// behind it.
func (s *shelf) find(shard int, log event.Log, sequence uint64, behind bool) *window {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.list) - 1; i >= 0; i-- {
		v := s.list[i]
		if v.shard == shard && v.log == log && v.from <= sequence && (sequence < v.through || sequence == v.through && !behind) {
			return v
		}
	}
	return nil
}

func (s *shelf) keep(v *window) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, v)
	s.bytes += int64(v.bytes)
	gone := 0
	for ; gone < len(s.list) && (s.bytes > s.limit || len(s.list)-gone > keptWindows); gone++ {
		s.bytes -= int64(s.list[gone].bytes)
	}
	if gone > 0 {
		s.list = append([]*window(nil), s.list[gone:]...)
	}
}

func (s *shelf) clear(shard int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = slices.DeleteFunc(s.list, func(v *window) bool {
		if v.shard == shard {
			s.bytes -= int64(v.bytes)
		}
		return v.shard == shard
	})
}

func (s *shelf) size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// nextOf gives f's events from a place on, like history.next. Feeds that repair together
// share what they read.
func (f *Feed) nextOf(ctx context.Context, from event.Cursor, anchor anchor) (list []message, err error) {
	w := f.hub.windowsOf(f.shard)
	mine := subject.In(f.shard, f.application)
	for at, n := from.Sequence, 0; w.repairing.Load() >= sharedRepairs && n < windowsAhead; n++ {
		v, err := f.window(ctx, w, event.Cursor{Log: from.Log, Sequence: at})
		if err != nil {
			return nil, err
		}
		if v == nil {
			break // the leader decides what is there
		}
		list = v.messages[mine]
		for len(list) > 0 && list[0].sequence < from.Sequence {
			list = list[1:]
		}
		if len(list) > 0 {
			return list, nil
		}
		at = v.through + 1
	}
	err = f.request(ctx, func(h *history) (err error) {
		list, _, err = h.next(ctx, f.shard, f.application, from, anchor)
		return err
	})
	return list, err
}

// window gives the window that holds a place, or nil if that cannot be had: the stream ends
// before, or whoever answers has let events expire that the leader may still have.
func (f *Feed) window(ctx context.Context, w *windows, at event.Cursor) (*window, error) {
	if v := w.shelf.find(w.shard, at.Log, at.Sequence, false); v != nil {
		return v, nil
	}
	start := max(1, at.Sequence-at.Sequence%denseBatch) // so that feeds ask for the same windows
	for range windowSteps {
		v := w.shelf.find(w.shard, at.Log, start, true)
		if v == nil {
			var err error
			if v, err = f.readWindow(ctx, w, event.Cursor{Log: at.Log, Sequence: start}); err != nil {
				return nil, err
			}
		}
		switch {
		case v.log != at.Log || v.from > at.Sequence || v.through <= start && v.through < at.Sequence:
			return nil, nil
		case v.through >= at.Sequence:
			return v, nil
		}
		start = v.through // its last message is the next one's anchor
	}
	return nil, nil
}

// readWindow reads the window that begins at a place, once for all who want it now. Its
// first message says from where on it holds all that the stream has.
func (f *Feed) readWindow(ctx context.Context, w *windows, at event.Cursor) (*window, error) {
	result := w.reading.DoChan(strconv.FormatUint(at.Sequence, 10), func() (any, error) {
		var v *window
		query := batchQuery{Sequence: at.Sequence, Batch: denseBatch}
		err := f.hub.request(f.hub.context, f.shard, func() error {
			v = &window{shard: w.shard, log: at.Log, messages: map[string][]message{}}
			return f.hub.history.batch(f.hub.context, f.shard, query, func(subject string, m message) {
				if v.from == 0 {
					v.from = m.sequence
				}
				v.messages[subject] = append(v.messages[subject], m)
				v.through = m.sequence
				v.bytes += m.size() + len(subject)
			})
		})
		if err != nil {
			return nil, err
		}
		if v.through > 0 {
			w.shelf.keep(v)
		}
		return v, nil
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*window), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
