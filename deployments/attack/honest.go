//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/coder/websocket"
	"golang.org/x/sync/errgroup"

	"canopy/bench/drain"
)

const (
	members     = 4 // of the honest group, on each edge
	resumeEvery = time.Second
	resumeFrom  = 20 // events before the newest one
	patience    = 20 * time.Second
	openAtOnce  = 16

	honestAddress = "127.0.1.1"
)

// honest are the clients that nothing may happen to: sockets that get every event, members of
// a group that split them, and one client after the other that resumes.
type honest struct {
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	client *http.Client
	sides  map[string]string // URL of each edge, by name
	basic  http.Header       // the member's credentials

	mu      sync.Mutex
	seen    sight
	places  []string       // cursors of the newest events
	sockets []*listener    // that get every event
	shared  map[uint64]int // how often each event came to the group
	ending  bool
}

// sight is what the honest have seen, from one moment to another.
type sight struct {
	latency map[string]*drain.Histogram // by edge
	resumes drain.Histogram             // until what was missed has come
	failed  []string                    // resumes, and sockets that were closed
}

func newSight(sides map[string]string) sight {
	s := sight{latency: map[string]*drain.Histogram{}}
	for name := range sides {
		s.latency[name] = &drain.Histogram{}
	}
	return s
}

// add counts what was seen later, too.
func (s *sight) add(later sight) {
	for name, l := range later.latency {
		s.latency[name].Add(l)
	}
	s.resumes.Add(&later.resumes)
	s.failed = append(s.failed, later.failed...)
}

// listener is one socket. Its counters belong to honest.mu.
type listener struct {
	side            string
	next            uint64 // event that comes next
	first           uint64
	holes, repeated uint64
}

func openHonest(ctx context.Context, w *world, sockets int) (*honest, error) {
	h := &honest{
		sides:  map[string]string{"plain": w.plain.URL(), "tls": "wss" + strings.TrimPrefix(w.over.URL(), "ws")},
		shared: map[uint64]int{},
		basic:  http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(member+":"+w.key))}},
		client: &http.Client{Transport: &http.Transport{
			DialContext:     (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(honestAddress)}}).DialContext,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // made for this run, by this program
		}},
	}
	h.seen = newSight(h.sides)
	h.ctx, h.cancel = context.WithCancel(ctx)
	group, opening := errgroup.WithContext(h.ctx)
	group.SetLimit(openAtOnce)
	for side, url := range h.sides {
		for range sockets / 2 {
			group.Go(func() error { return h.open(opening, side, url) })
		}
		for range members {
			group.Go(func() error { return h.join(opening, url) })
		}
	}
	if err := group.Wait(); err != nil {
		h.close()
		return nil, err
	}
	h.work.Go(h.resume)
	return h, nil
}

func (h *honest) dial(ctx context.Context, url string, header http.Header) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: h.client, HTTPHeader: header})
	if err != nil {
		return nil, fmt.Errorf("open an honest socket: %w", err)
	}
	return conn, nil
}

// open opens a socket that gets every event.
func (h *honest) open(ctx context.Context, side, url string) error {
	conn, err := h.dial(ctx, url, nil)
	if err != nil {
		return err
	}
	l := &listener{side: side}
	h.mu.Lock()
	h.sockets = append(h.sockets, l)
	h.mu.Unlock()
	h.work.Go(func() { h.read(conn, func(e arrival) { h.note(l, e) }) })
	return nil
}

// join makes a member of the honest group.
func (h *honest) join(ctx context.Context, url string) error {
	conn, err := h.dial(ctx, url+"?group_id=workers", h.basic)
	if err != nil {
		return err
	}
	h.work.Go(func() {
		h.read(conn, func(e arrival) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.shared[e.number]++
		})
	})
	return nil
}

// arrival is an event as it came.
type arrival struct {
	number uint64
	age    time.Duration
	cursor string
}

// read hands over events until the socket ends.
func (h *honest) read(conn *websocket.Conn, take func(arrival)) {
	defer func() { _ = conn.CloseNow() }() // it has ended already, or nobody waits for its end
	var counter drain.Counter
	for {
		_, payload, err := conn.Read(h.ctx)
		if err != nil {
			h.ended(err)
			return
		}
		take(parseEvent(&counter, payload))
	}
}

func (h *honest) ended(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ending && h.ctx.Err() == nil {
		h.seen.failed = append(h.seen.failed, "socket closed: "+err.Error())
	}
}

// parseEvent reads an event of package load.
func parseEvent(counter *drain.Counter, payload []byte) (e arrival) {
	now := time.Now()
	var rest []byte
	e.number, rest = counter.Read(payload)
	if text, ok := bytes.CutPrefix(rest, []byte(`,"at":`)); ok {
		digits := bytes.IndexFunc(text, func(r rune) bool { return !unicode.IsDigit(r) })
		if at, err := strconv.ParseInt(string(text[:max(0, digits)]), 10, 64); err == nil {
			e.age = now.Sub(time.Unix(0, at))
		}
	}
	if _, tail, ok := bytes.Cut(payload, []byte(`"cursor":"`)); ok {
		cursor, _, _ := bytes.Cut(tail, []byte(`"`))
		e.cursor = string(cursor)
	}
	return e
}

// note counts an event at a socket that gets every one.
func (h *honest) note(l *listener, e arrival) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen.latency[l.side].Record(e.age)
	switch {
	case l.next == 0:
		l.first = e.number
	case e.number > l.next:
		l.holes += e.number - l.next
	case e.number < l.next:
		l.repeated++
		return
	}
	l.next = e.number + 1
	if l == h.sockets[0] {
		if h.places = append(h.places, e.cursor); len(h.places) > resumeFrom+1 {
			h.places = h.places[1:]
		}
	}
}

// resume is one client after the other that comes back where it was a moment ago, now at one
// edge, now at the other.
func (h *honest) resume() {
	tick := time.NewTicker(resumeEvery)
	defer tick.Stop()
	for {
		for side, url := range h.sides {
			select {
			case <-h.ctx.Done():
				return
			case <-tick.C:
			}
			h.mu.Lock()
			places := h.places
			h.mu.Unlock()
			if len(places) <= resumeFrom {
				continue
			}
			began := time.Now()
			err := h.comeBack(url+"?since="+places[0], places[1:])
			h.mu.Lock()
			if err == nil {
				h.seen.resumes.Record(time.Since(began))
			} else if h.ctx.Err() == nil {
				h.seen.failed = append(h.seen.failed, "resume at "+side+": "+err.Error())
			}
			h.mu.Unlock()
		}
	}
}

// comeBack opens a socket and waits for what it has missed.
func (h *honest) comeBack(url string, missed []string) error {
	ctx, cancel := context.WithTimeout(h.ctx, patience)
	defer cancel()
	conn, err := h.dial(ctx, url, nil)
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseNow() }() // nobody waits for its end
	var counter drain.Counter
	for _, want := range missed {
		_, payload, err := conn.Read(ctx)
		if err != nil {
			return err
		}
		if e := parseEvent(&counter, payload); e.cursor != want {
			return fmt.Errorf("got %s, want %s", e.cursor, want)
		}
	}
	return nil
}

// take gives what was seen since it was last called.
func (h *honest) take() sight {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.seen
	h.seen = newSight(h.sides)
	return s
}

// tally is what came to the honest in the end.
type tally struct {
	complete        int // sockets that had the last event
	sockets         int
	holes, repeated uint64
	groupMissing    uint64
	groupRepeated   uint64
}

// await waits until every socket has had the last event, and the group each one.
func (h *honest) await(ctx context.Context, last uint64) (t tally) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		t = h.count(last)
		if t.complete == t.sockets && t.groupMissing == 0 {
			return t
		}
		select {
		case <-ctx.Done():
			return t
		case <-tick.C:
		}
	}
}

func (h *honest) count(last uint64) (t tally) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t.sockets = len(h.sockets)
	for _, l := range h.sockets {
		if l.next == last+1 {
			t.complete++
		}
		t.holes += l.holes + l.first - 1
		t.repeated += l.repeated
	}
	for n := uint64(1); n <= last; n++ {
		switch times := h.shared[n]; {
		case times == 0:
			t.groupMissing++
		case times > 1:
			t.groupRepeated += uint64(times - 1)
		}
	}
	return t
}

// fault says what went wrong.
func (t tally) fault() error {
	if t.complete < t.sockets || t.holes+t.repeated+t.groupMissing+t.groupRepeated > 0 {
		return errors.New("events were lost or repeated: " + t.String())
	}
	return nil
}

func (t tally) String() string {
	return fmt.Sprintf("%d of %d sockets had the last event, %d holes, %d repeats; the group missed %d and had %d twice",
		t.complete, t.sockets, t.holes, t.repeated, t.groupMissing, t.groupRepeated)
}

// close ends all of them.
func (h *honest) close() {
	h.mu.Lock()
	h.ending = true
	h.mu.Unlock()
	h.cancel()
	h.work.Wait()
}
