//go:build linux

// Package drain is the client of every bench and of the end-to-end tests: it opens very
// many WebSockets, reads everything with one epoll loop and checks on each socket that
// no event is missing, repeated or out of order.
//
// It understands events whose data begins with a counter and, if latency matters, the
// time of their making: `"data":{"n":17,"at":1700000000000000000,…}`. Counters go up by
// one from event to event; "at" is in nanoseconds since 1970 on this machine's clock.
package drain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// DefaultConcurrency is how many handshakes a fleet has under way at once.
const DefaultConcurrency = 64

// Config says what a fleet opens.
type Config struct {
	// URL is what every socket asks for; only ws:// with an IPv4 address or localhost.
	// {n} in it stands for the socket's number, so that each may ask for something else.
	URL string `json:"url"`

	// Number is the number of the first socket.
	Number int `json:"number,omitempty"`

	// Modulo, if it is not 0, has {n} stand for the remainder of the socket's number.
	Modulo int `json:"modulo,omitempty"`

	// Header goes with every handshake, beside what the upgrade itself needs.
	Header http.Header `json:"header,omitempty"`

	// Tokens, if there are any, are one for each socket, which brings it as a Bearer token.
	Tokens []string `json:"tokens,omitempty"`

	// Sockets is how many are opened. One process can hold as many as its limit of
	// descriptors allows, less about 20.
	Sockets int `json:"sockets"`

	// First is the counter that every socket must see first; a later one is a hole.
	// 0 takes whatever comes first.
	First uint64 `json:"first,omitempty"`

	// Sequences is how many sequences of counters the events of one socket belong to, such
	// as those of the partitions of a Kafka topic: event i of sequence k is number
	// i*Sequences+k, and each sequence is checked by itself, with i for the counter. 0 and 1
	// are one. Not with Shared.
	Sequences uint64 `json:"sequences,omitempty"`

	// Shared says that sockets share the events, as members of a group do: each event
	// must come to one of them, and each socket's numbers only go up.
	Shared bool `json:"shared,omitempty"`

	// Concurrency is how many handshakes are under way at once. 0 means DefaultConcurrency.
	Concurrency int `json:"concurrency,omitempty"`

	// HandshakeTimeout bounds each handshake. 0 means 30 seconds.
	HandshakeTimeout time.Duration `json:"handshake_timeout,omitempty"`

	// Source is the IPv4 address that sockets come from. Empty means: towards a
	// loopback server eight addresses 127.0.x.1 to 8 in turn, because one address has
	// only about 28,000 ports; towards any other whatever the system takes.
	Source string `json:"source,omitempty"`

	// ReceiveBuffer is SO_RCVBUF of every socket in bytes, so that a stalled one fills
	// up soon. 0 leaves it to the kernel.
	ReceiveBuffer int `json:"receive_buffer,omitempty"`

	// Look is how often Wait looks. 0 means every millisecond, which is much for dozens of
	// processes on few cores.
	Look time.Duration `json:"look,omitempty"`
}

// Fleet is a number of open sockets that one goroutine reads. All methods may be
// called from any goroutine.
type Fleet struct {
	cfg    Config
	target *target
	epoll  int
	wake   int // eventfd that ends the loop
	done   chan struct{}
	close  sync.Once

	mu      sync.Mutex // guards everything below, and is held while ready sockets are read
	sockets []socket
	seen    Snapshot
	numbers Counter
	buf     []byte
	spare   [][]byte // for the beginnings of frames, used again
	turn    int      // the socket that Replace takes next
}

// socket is one connection. Its place in Fleet.sockets is its identity in epoll,
// because the kernel gives descriptors of closed sockets to others.
type socket struct {
	fd      int // -1 before the handshake and after the end
	rest    []byte
	seq     sequence
	more    []sequence // 1 and further, if there are several
	first   uint64     // counter of the first event, 0 before it
	joined  time.Time  // just after its handshake
	stalled bool
	closed  bool // a close frame came; only the connection's end may follow
	pinged  bool // since the last Reset
}

// newSocket is a socket before its handshake. It must see the counter first before any
// other one; 0 takes whatever comes first.
func (f *Fleet) newSocket(first uint64) socket {
	s := socket{fd: -1, seq: sequence{next: first}}
	for range max(f.cfg.Sequences, 1) - 1 {
		s.more = append(s.more, sequence{next: first})
	}
	return s
}

// forget lets go of what the socket has missed.
func (s *socket) forget() {
	s.seq.missing = nil
	for i := range s.more {
		s.more[i].missing = nil
	}
}

// Dial opens cfg.Sockets sockets and reads them until Close. If one handshake fails
// none stays open, and the error is a *RefusedError if the server answered it.
func Dial(ctx context.Context, cfg Config) (*Fleet, error) {
	target, err := newTarget(cfg)
	if err != nil {
		return nil, err
	}
	f := &Fleet{
		cfg:     cfg,
		target:  target,
		done:    make(chan struct{}),
		sockets: make([]socket, cfg.Sockets),
		buf:     make([]byte, readBuffer),
		seen:    Snapshot{Closes: map[int]uint64{}, Reasons: map[int]string{}},
	}
	if cfg.Shared {
		f.seen.Numbers = &Numbers{}
	}
	for i := range f.sockets {
		f.sockets[i] = f.newSocket(cfg.First)
	}
	if err := f.openEpoll(); err != nil {
		return nil, err
	}
	go f.run()
	if err := f.dialAll(ctx); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (f *Fleet) openEpoll() error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("create epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return errors.Join(fmt.Errorf("create eventfd: %w", err), unix.Close(epoll))
	}
	f.epoll, f.wake = epoll, wake
	if err := f.watch(unix.EPOLL_CTL_ADD, wake, wakeIndex); err != nil {
		return errors.Join(err, unix.Close(epoll), unix.Close(wake))
	}
	return nil
}

func (f *Fleet) dialAll(ctx context.Context) error {
	group, live := errgroup.WithContext(ctx)
	group.SetLimit(f.workers())
	for i := range f.sockets {
		if live.Err() != nil {
			break
		}
		group.Go(func() error { return f.dial(live, i) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// workers is how many handshakes may be under way at once.
func (f *Fleet) workers() int {
	if f.cfg.Concurrency > 0 {
		return f.cfg.Concurrency
	}
	return DefaultConcurrency
}

func (f *Fleet) dial(ctx context.Context, i int) error {
	fd, early, err := f.target.open(ctx, i)
	if err != nil {
		return fmt.Errorf("open socket %d of %d: %w", i+1, len(f.sockets), err)
	}
	return f.join(i, fd, early)
}

// join makes fd socket i. early is what came right behind the handshake.
func (f *Fleet) join(i, fd int, early []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.sockets[i]
	s.fd, s.joined = fd, time.Now()
	f.seen.Sockets++
	f.seen.Open++
	if len(early) > 0 {
		f.take(s, early)
	}
	if s.fd < 0 {
		return nil // it has ended already, and is counted
	}
	return f.watch(unix.EPOLL_CTL_ADD, fd, int32(i))
}

func (f *Fleet) watch(op, fd int, index int32) error {
	if err := unix.EpollCtl(f.epoll, op, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: index}); err != nil {
		return fmt.Errorf("change epoll: %w", err)
	}
	return nil
}

// Snapshot is what the fleet has seen so far.
func (f *Fleet) Snapshot() Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.seen
	s.Closes, s.Reasons, s.Wrong = maps.Clone(s.Closes), maps.Clone(s.Reasons), slices.Clone(s.Wrong)
	if s.Numbers != nil {
		s.Numbers = &Numbers{First: s.Numbers.First, Words: slices.Clone(s.Numbers.Words)}
	}
	return s
}

// Wait returns the first snapshot that until accepts. It looks as often as the
// configuration says. If ctx ends before, the error is ctx's and the snapshot is the last
// one.
func (f *Fleet) Wait(ctx context.Context, until func(Snapshot) bool) (Snapshot, error) {
	tick := time.NewTicker(cmp.Or(f.cfg.Look, time.Millisecond))
	defer tick.Stop()
	for {
		s := f.Snapshot()
		if until(s) {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return s, fmt.Errorf("wait for events: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// Reset forgets what was counted. Sockets stay open, and each goes on to expect the
// counter behind its last one; what one has missed before is no longer remembered.
func (f *Fleet) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = Snapshot{
		Sockets: f.seen.Sockets, Open: f.seen.Open, Stalled: f.seen.Stalled,
		Closes: map[int]uint64{}, Reasons: map[int]string{},
	}
	if f.cfg.Shared {
		f.seen.Numbers = &Numbers{}
	}
	for i := range f.sockets {
		f.sockets[i].forget()
		f.sockets[i].pinged = false
	}
}

// Stall stops reading n more of the open sockets and returns how many it found.
func (f *Fleet) Stall(n int) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	stalled := 0
	for i := range f.sockets {
		s := &f.sockets[i]
		if stalled == n {
			break
		}
		if s.fd < 0 || s.stalled || s.closed {
			continue
		}
		if err := f.watch(unix.EPOLL_CTL_DEL, s.fd, int32(i)); err != nil {
			return stalled, err
		}
		s.stalled = true
		stalled++
		f.seen.Stalled++
	}
	return stalled, nil
}

// Resume reads all stalled sockets again.
func (f *Fleet) Resume() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.sockets {
		s := &f.sockets[i]
		if !s.stalled {
			continue
		}
		if err := f.watch(unix.EPOLL_CTL_ADD, s.fd, int32(i)); err != nil {
			return err
		}
		s.stalled = false
		f.seen.Stalled--
	}
	return nil
}

// Close cuts all sockets off, without close frames, and returns when the loop has
// ended. Calling it again does nothing.
func (f *Fleet) Close() {
	f.close.Do(func() {
		var one [8]byte
		one[0] = 1
		_, _ = unix.Write(f.wake, one[:]) // an eventfd takes 8 bytes or is full, which wakes as well
		<-f.done
	})
	<-f.done
}
