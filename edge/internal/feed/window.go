package feed

import (
	"context"
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

	keptWindows     = 64 // of each stream
	keptWindowBytes = 16 << 20
)

// window is a stretch of a stream, read once for all feeds. It never changes.
type window struct {
	log           event.Log
	from, through uint64
	bytes         int
	messages      map[string][]message // by subject, in order
}

// windows are those of one stream that were read lately. Any goroutine may call it.
type windows struct {
	repairing atomic.Int64 // feeds of this stream
	reading   singleflight.Group

	mu    sync.Mutex
	list  []*window // the one that was read last comes last
	bytes int
}

// find gives a window that holds sequence.
func (w *windows) find(log event.Log, sequence uint64) *window {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.list) - 1; i >= 0; i-- {
		if v := w.list[i]; v.log == log && v.from <= sequence && sequence <= v.through {
			return v
		}
	}
	return nil
}

func (w *windows) keep(v *window) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, v)
	w.bytes += v.bytes
	for len(w.list) > keptWindows || w.bytes > keptWindowBytes && len(w.list) > 1 {
		w.bytes -= w.list[0].bytes
		w.list = append([]*window(nil), w.list[1:]...)
	}
}

// leave forgets the windows when nobody repairs any more.
func (w *windows) leave() {
	if w.repairing.Add(-1) > 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list, w.bytes = nil, 0
}

// nextOf gives f's events from a place on, like history.next. Feeds that repair together
// share what they read.
func (f *Feed) nextOf(ctx context.Context, from event.Cursor, dense bool) (list []message, err error) {
	w := f.hub.windowsOf(f.shard)
	mine := subject.In(f.shard, f.application)
	for at, n := from.Sequence, 0; w.repairing.Load() >= sharedRepairs && n < windowsAhead; n++ {
		v, err := f.window(ctx, w, event.Cursor{Log: from.Log, Sequence: at})
		if err != nil {
			return nil, err
		}
		if v == nil {
			break // whoever answered has nothing there: the leader decides
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
		list, err = h.next(ctx, f.shard, f.application, from.Sequence, dense)
		return err
	})
	return list, err
}

// window gives the window that holds a place, or nil if the stream ends before.
func (f *Feed) window(ctx context.Context, w *windows, at event.Cursor) (*window, error) {
	if v := w.find(at.Log, at.Sequence); v != nil {
		return v, nil
	}
	start := at.Sequence - at.Sequence%denseBatch // so that feeds ask for the same windows
	result := w.reading.DoChan(strconv.FormatUint(start, 10), func() (any, error) {
		v := &window{log: at.Log, from: start, messages: map[string][]message{}}
		err := f.hub.request(f.hub.context, f.shard, func() error {
			return f.hub.history.batchOf(f.hub.context, f.shard, max(1, start), func(subject string, m message) {
				v.messages[subject] = append(v.messages[subject], m)
				v.through = m.sequence
				v.bytes += m.size() + len(subject)
			})
		})
		if err == nil && v.through > 0 {
			w.keep(v)
		}
		return v, err
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		if v := r.Val.(*window); v.log == at.Log && v.through >= at.Sequence {
			return v, nil
		}
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
