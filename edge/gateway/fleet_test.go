package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"canopy/shared/event"
)

// member is a client that comes back whenever its socket ends, with the cursor of its last
// event. Events of its application are numbered from 1 on; it wants each once and in order.
type member struct {
	application string
	edges       func() []string // host:port of those it may connect to
	fault       func(error)

	last   atomic.Int64 // number of the last event
	cursor event.Cursor
	opened atomic.Int64 // sockets
	since  atomic.Int64 // when the latest was opened, ns since 1970
}

const (
	// comeBack is the most that a member waits before it comes back. Ten thousand that
	// came in one moment would fill the listener's queue.
	comeBack = 2 * time.Second

	// handshakeLimit is when a member gives up and tries again.
	handshakeLimit = 5 * time.Second
)

// fleet are many members.
type fleet struct {
	t       *testing.T
	members []*member
	cancel  context.CancelFunc
	done    sync.WaitGroup

	mu     sync.Mutex
	faults []error
}

// startFleet runs members until the test ends.
func startFleet(t *testing.T, members []*member) *fleet {
	ctx, cancel := context.WithCancel(context.Background())
	f := &fleet{t: t, members: members, cancel: cancel}
	for _, m := range members {
		m.fault = func(err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.faults = append(f.faults, fmt.Errorf("%s: %w", m.application, err))
		}
		f.done.Go(func() { m.run(ctx) })
	}
	t.Cleanup(func() { cancel(); f.done.Wait() })
	return f
}

// await waits until cond is true for every member, and fails as soon as one has a fault.
func (f *fleet) await(what string, limit time.Duration, cond func(*member) bool) {
	f.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		missing := 0
		for _, m := range f.members {
			if !cond(m) {
				missing++
			}
		}
		f.mu.Lock()
		faults := f.faults
		f.mu.Unlock()
		if len(faults) > 0 {
			f.t.Fatalf("%d faults, among them: %v", len(faults), errors.Join(faults[:min(3, len(faults))]...))
		}
		if missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("%s: %d of %d members are missing after %v", what, missing, len(f.members), limit)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (m *member) run(ctx context.Context) {
	for ctx.Err() == nil {
		edges := m.edges()
		_ = m.connect(ctx, edges[rand.IntN(len(edges))]) // whatever ended it, it comes back
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(comeBack)):
		}
	}
}

// connect opens a socket and reads it until it ends.
func (m *member) connect(ctx context.Context, edge string) error {
	var dialer net.Dialer
	limited, cancel := context.WithTimeout(ctx, handshakeLimit)
	c, err := dialer.DialContext(limited, "tcp", edge)
	cancel()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	path := "/" + m.application
	if m.cursor != (event.Cursor{}) {
		path += "?since=" + url.QueryEscape(m.cursor.String())
	}
	_ = c.SetDeadline(time.Now().Add(handshakeLimit))
	request := "GET " + path + " HTTP/1.1\r\nHost: canopy\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	if _, err := io.WriteString(c, request); err != nil {
		return err
	}
	in := bufio.NewReaderSize(c, 2<<10)
	answer, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("%s", answer.Status)
	}
	_ = c.SetDeadline(time.Time{})
	m.since.Store(time.Now().UnixNano())
	m.opened.Add(1)
	for payload := make([]byte, 0, 512); ; {
		opcode, b, err := nextFrame(in, payload)
		if err != nil {
			return err
		}
		switch opcode {
		case 1:
			m.take(b)
		case 8:
			return fmt.Errorf("closed: %q", b)
		case 9:
			if _, err := c.Write(append([]byte{0x8a, 0x80 | byte(len(b)), 0, 0, 0, 0}, b...)); err != nil {
				return err
			}
		}
	}
}

// take checks one event against those before it.
func (m *member) take(b []byte) {
	if bytes.Contains(b, []byte(event.GapType)) {
		m.fault(fmt.Errorf("got %s", b))
		return
	}
	_, after, _ := bytes.Cut(b, []byte(`"n":`))
	n := int64(0)
	for _, d := range after {
		if d < '0' || d > '9' {
			break
		}
		n = 10*n + int64(d-'0')
	}
	c := event.LastCursor(b)
	if last := m.last.Load(); n != last+1 {
		m.fault(fmt.Errorf("got event %d after %d (socket %d, %s)", n, last, m.opened.Load(), c))
	}
	m.cursor = c
	m.last.Store(n)
}

func nextFrame(in *bufio.Reader, into []byte) (opcode byte, payload []byte, err error) {
	var header [8]byte
	if _, err := io.ReadFull(in, header[:2]); err != nil {
		return 0, nil, err
	}
	opcode, size := header[0]&15, int(header[1])
	switch size {
	case 126:
		if _, err := io.ReadFull(in, header[:2]); err != nil {
			return 0, nil, err
		}
		size = int(binary.BigEndian.Uint16(header[:]))
	case 127:
		if _, err := io.ReadFull(in, header[:8]); err != nil {
			return 0, nil, err
		}
		size = int(binary.BigEndian.Uint64(header[:]))
	}
	if cap(into) < size {
		into = make([]byte, size)
	}
	_, err = io.ReadFull(in, into[:size])
	return opcode, into[:size], err
}

// flow publishes numbered events of several applications at a steady pace until stop.
type flow struct {
	published []atomic.Int64 // of each application
	cancel    context.CancelFunc
	done      sync.WaitGroup
}

// startFlow publishes perSecond events of every application, each in order.
func (s *stack) startFlow(applications []string, perSecond float64) *flow {
	ctx, cancel := context.WithCancel(context.Background())
	f := &flow{published: make([]atomic.Int64, len(applications)), cancel: cancel}
	for i, application := range applications {
		f.done.Go(func() {
			ticker := time.NewTicker(time.Duration(float64(time.Second) / perSecond))
			defer ticker.Stop()
			for n := 1; ; n++ {
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
				}
				if err := s.publishAs(fmt.Sprintf("%s/%d", application, n), application, "", n); err != nil {
					s.t.Error(err)
					return
				}
				f.published[i].Store(int64(n))
			}
		})
	}
	s.t.Cleanup(func() { f.stop() })
	return f
}

// stop ends the flow and gives the number of events of each application, and of all.
func (f *flow) stop() (last map[int]int64, all int64) {
	f.cancel()
	f.done.Wait()
	last = map[int]int64{}
	for i := range f.published {
		last[i] = f.published[i].Load()
		all += last[i]
	}
	return last, all
}
