package feed

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/shared/config"
	"canopy/shared/event"
)

const patience = 20 * time.Second

// fakeSocket takes what its window allows, like a kernel, and keeps the rest.
type fakeSocket struct {
	Reader
	mu       sync.Mutex
	window   int // bytes that it takes before it stalls; < 0: any number
	owed     []byte
	got      bytes.Buffer
	writes   int
	largest  int
	lagged   int
	detached int
	changed  *sync.Cond
	held     *atomic.Int64 // what is owed to all sockets; may be nil
	gotWhole int           // bytes of got that are whole frames
	frames   int           // how many
}

func newFakeSocket(window int) *fakeSocket {
	s := &fakeSocket{window: window}
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *fakeSocket) WriteFast(b []byte) error { return s.Write(b) }

func (s *fakeSocket) Write(b []byte) error {
	s.mu.Lock()
	if s.detached > 0 {
		s.mu.Unlock()
		return errors.New("written to after Detached")
	}
	s.writes++
	s.largest = max(s.largest, len(b))
	s.owed = append(s.owed, b...)
	s.hold(len(b))
	n := s.take()
	s.mu.Unlock()
	s.tell(n)
	return nil
}

// take moves what the window allows from owed to got. mu is held.
func (s *fakeSocket) take() int {
	n := len(s.owed)
	if s.window >= 0 {
		n = min(n, s.window)
		s.window -= n
	}
	s.got.Write(s.owed[:n])
	s.owed = s.owed[n:]
	s.hold(-n)
	s.changed.Broadcast()
	return n
}

// whole counts the frames that have come whole. mu is held.
func (s *fakeSocket) whole() int {
	for b := s.got.Bytes()[s.gotWhole:]; len(b) >= 10; {
		n := firstFrame(b)
		if n > len(b) {
			break
		}
		b = b[n:]
		s.gotWhole += n
		s.frames++
	}
	return s.frames
}

// readSlowly takes 8 KiB every millisecond until ctx ends.
func (s *fakeSocket) readSlowly(ctx context.Context) {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.refill(8 << 10)
		}
	}
}

func (s *fakeSocket) hold(n int) {
	if s.held != nil {
		s.held.Add(int64(n))
	}
}

func (s *fakeSocket) tell(n int) {
	if n > 0 {
		s.Written(n)
	}
}

// widen lets the socket take n more bytes.
func (s *fakeSocket) widen(n int) {
	s.mu.Lock()
	s.window += n
	n = s.take()
	s.mu.Unlock()
	s.tell(n)
}

// refill lets the socket take n more bytes, but never more than that at once.
func (s *fakeSocket) refill(n int) {
	s.mu.Lock()
	s.window = n
	n = s.take()
	s.mu.Unlock()
	s.tell(n)
}

func (s *fakeSocket) Lagged() {
	s.mu.Lock()
	s.lagged++
	s.changed.Broadcast()
	s.mu.Unlock()
	s.Detach()
}

// cut frees what the socket holds.
func (s *fakeSocket) cut() {
	s.Lagged()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold(-len(s.owed))
	s.owed = nil
}

func (s *fakeSocket) Detached() {
	s.mu.Lock()
	s.detached++
	s.changed.Broadcast()
	s.mu.Unlock()
}

// until waits for a condition on the socket.
func (s *fakeSocket) until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	stop := time.AfterFunc(patience, s.changed.Broadcast)
	defer stop.Stop()
	deadline := time.Now().Add(patience)
	s.mu.Lock()
	defer s.mu.Unlock()
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s (got %d bytes, %d owed, %d writes, lagged %d)", what, patience, s.got.Len(), len(s.owed), s.writes, s.lagged)
		}
		s.changed.Wait()
	}
}

// newTestFeed is an open feed of a hub without NATS, whose sweep runs until the test ends.
func newTestFeed(t testing.TB, buffers config.Buffers) *Feed {
	cfg := Config{Buffers: buffers, Workers: 2, Held: func() int64 { return 0 }}
	h := New(cfg, nil, nil, zap.NewNop(), prometheus.NewRegistry())
	var workers sync.WaitGroup
	for range cfg.Workers {
		workers.Go(h.sweep.run)
	}
	t.Cleanup(func() { h.sweep.stop(); workers.Wait() })
	return newOpenFeed(h, "app")
}

func newOpenFeed(h *Hub, application string) *Feed {
	f := newFeed(h, application, 0)
	f.logID.Store(7)
	f.ring.begin(event.Cursor{Log: 7})
	f.chain.held = false
	h.feeds[application] = f
	return f
}

var roomy = config.Buffers{
	FeedAge: time.Hour, FeedBytes: 64 << 20, TotalBytes: 512 << 20, NATSBytes: 32 << 20, SocketBytes: 256 << 20, RepairBytes: 64 << 20, ReplayBytes: 64 << 20,
}

// emit appends event number n, of about size bytes.
func (f *Feed) emit(n uint64, size int, l labels) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.chain.head = n
	f.apply(message{sequence: n, labels: l, json: fmt.Appendf(nil, `{"n":%d,"pad":%q}`, n, strings.Repeat("x", size))})
}

// cuts is how often the socket was told that it lags.
func (s *fakeSocket) cuts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lagged
}

// sequences reads the event numbers back from frames.
func sequences(b []byte) (list []uint64) {
	for len(b) > 0 {
		size, header := int(b[1]), 2
		if size == 126 {
			size, header = int(b[2])<<8|int(b[3]), 4
		} else if size == 127 {
			size, header = int(binary.BigEndian.Uint64(b[2:])), 10
		}
		list = append(list, lastSequence(b[:header+size]))
		b = b[header+size:]
	}
	return list
}

func (f *Feed) join(s *fakeSocket, filter Filter) {
	f.attach(&s.Reader, s, filter, begin{now: true})
	s.Release()
}

func expect(t *testing.T, s *fakeSocket, from, to, step uint64) {
	t.Helper()
	want := int((to-from)/step) + 1
	s.until(t, fmt.Sprintf("%d events", want), func() bool { return countFrames(s.got.Bytes()) >= want })
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, n := range sequences(s.got.Bytes()) {
		if n != from+uint64(i)*step {
			t.Fatalf("event %d is %d, want %d", i, n, from+uint64(i)*step)
		}
	}
}
