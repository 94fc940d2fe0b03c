//go:build linux

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"

	"canopy/deployments/e2e/oracle"
)

// clients are sockets and members of groups, and what they have received.
type clients struct {
	r      *trial
	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	list   []*client
	dials  int // that were answered with 101
	closes int // that clients did not want
}

// client is one that comes back when its socket ends: by since= where it was, as a member of
// its group, or as somebody else who knows nothing.
type client struct {
	all         *clients
	name        string
	application int
	edge        int
	query       string // of the first socket
	resumes     bool
	group       bool

	mu       sync.Mutex
	received []oracle.Socket // one, unless it comes back as somebody else
}

// connectClients opens sockets of all kinds for each application, on all edges.
func (r *trial) connectClients() *clients {
	r.world.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &clients{r: r, ctx: ctx, cancel: cancel}
	r.world.t.Cleanup(c.stop)
	for application := range trialApplications {
		for edge := range r.edges {
			c.add(&client{name: "live", application: application, edge: edge})
			c.add(&client{name: "resuming", application: application, edge: edge, resumes: true})
			c.add(&client{name: "member", application: application, edge: edge, query: "group_id=g", group: true})
		}
		c.add(&client{name: "member", application: application, query: "group_id=g", group: true})
	}
	eventually(r.world.t, "all sockets are open", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.dials == len(c.list)
	})
	return c
}

func (c *clients) add(one *client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one.all = c
	one.name = fmt.Sprintf("%s of %s on edge %d (%d)", one.name, applicationName(one.application), one.edge, len(c.list))
	for i := range one.received {
		one.received[i].Name = one.name
	}
	c.list = append(c.list, one)
	c.done.Go(one.run)
}

// addLate adds, on every edge in turn, sockets that read the whole log, and ones that resume
// in the middle of what another one has had.
func (c *clients) addLate(random *rand.Rand) {
	c.mu.Lock()
	list := slices.Clone(c.list)
	edge := len(list) % len(c.r.edges)
	c.mu.Unlock()
	for application := range trialApplications {
		c.add(&client{name: "reading all", application: application, edge: edge, query: "since=earliest", resumes: true})
	}
	for _, other := range list {
		if !other.resumes || other.query != "" {
			continue
		}
		one := &client{name: "resuming in the past", application: other.application, edge: edge, resumes: true}
		other.mu.Lock()
		if len(other.received) > 0 && len(other.received[0].Messages) > 0 {
			past := other.received[0]
			past.Messages = slices.Clone(past.Messages[:1+random.IntN(len(past.Messages))])
			past.Open = false
			one.received = []oracle.Socket{past}
		}
		other.mu.Unlock()
		if one.received != nil {
			c.add(one)
		}
	}
}

// stop ends all sockets.
func (c *clients) stop() {
	c.cancel()
	c.done.Wait()
}

func (c *client) run() {
	for c.all.ctx.Err() == nil {
		c.once()
		select { // do not ask without a pause
		case <-c.all.ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// once opens a socket, and reads until it ends.
func (c *client) once() {
	ctx, cancel := context.WithTimeout(c.all.ctx, 10*time.Second)
	edges := c.all.r.edges
	conn, _, err := websocket.Dial(ctx, "ws://"+edges[c.edge].address()+"/"+url.PathEscape(c.all.r.app(applicationName(c.application)))+"?"+c.ask(), nil)
	cancel()
	if err != nil {
		if c.resumes { // any edge will do
			c.edge = (c.edge + 1) % len(edges)
		}
		return
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(-1)
	c.opened(time.Now())
	for {
		_, text, err := conn.Read(c.all.ctx)
		if err != nil {
			c.closed()
			return
		}
		m := oracle.Parse(time.Now(), text)
		c.mu.Lock()
		s := &c.received[len(c.received)-1]
		s.Messages = append(s.Messages, m)
		c.mu.Unlock()
	}
}

// ask is the query of the next socket.
func (c *client) ask() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resumes && len(c.received) > 0 {
		for _, m := range slices.Backward(c.received[0].Messages) {
			if m.Err == nil {
				return "since=" + url.QueryEscape(m.Cursor)
			}
		}
	}
	return c.query
}

// opened notes a handshake. Who comes back without a place, since nothing has come, can be
// promised only what comes from now on.
func (c *client) opened(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.received); n > 0 && (c.group || c.resumes && len(c.received[0].Messages) > 0) {
		c.received[0].Open = true
	} else {
		s := oracle.Socket{Name: c.name, Application: c.all.r.app(applicationName(c.application)), Opened: at, Open: true}
		if c.query == "since=earliest" && !c.all.r.forgot.Load() {
			s.Opened = time.Time{}
		}
		if c.resumes {
			c.received = nil
		}
		c.received = append(c.received, s)
	}
	c.all.mu.Lock()
	c.all.dials++
	c.all.mu.Unlock()
}

func (c *client) closed() {
	if c.all.ctx.Err() != nil {
		return // it waited until the end
	}
	c.mu.Lock()
	c.received[len(c.received)-1].Open = false
	c.mu.Unlock()
	c.all.mu.Lock()
	c.all.closes++
	c.all.mu.Unlock()
}

// snapshot is what the client has received until now.
func (c *client) snapshot() []oracle.Socket {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.received) // what was received is only added to
}

// received is what all have received until now.
func (c *clients) received() (sockets []oracle.Socket, groups []oracle.Group) {
	c.mu.Lock()
	list := slices.Clone(c.list)
	c.mu.Unlock()
	byApplication := make([]oracle.Group, trialApplications)
	for _, one := range list {
		got := one.snapshot()
		if !one.group {
			sockets = append(sockets, got...)
			continue
		}
		g := &byApplication[one.application]
		g.Name, g.Application = "the group of "+applicationName(one.application), c.r.app(applicationName(one.application))
		for _, s := range got {
			if g.Opened.IsZero() || s.Opened.Before(g.Opened) {
				g.Opened = s.Opened
			}
			g.Members = append(g.Members, s)
		}
	}
	return sockets, byApplication
}

// freshOf says whether every socket of an application is open and has had an event since then.
func (c *clients) freshOf(application int, from time.Time) bool {
	c.mu.Lock()
	list := slices.Clone(c.list)
	c.mu.Unlock()
	for _, one := range list {
		if one.application != application || one.group {
			continue
		}
		one.mu.Lock()
		fresh := len(one.received) > 0 && one.received[len(one.received)-1].Open
		if fresh {
			got := one.received[len(one.received)-1].Messages
			fresh = len(got) > 0 && got[len(got)-1].At.After(from) && got[len(got)-1].Gap == nil
		}
		one.mu.Unlock()
		if !fresh {
			return false
		}
	}
	return true
}

// fresh says whether every socket has had something since then.
func (c *clients) fresh(from time.Time) bool {
	for application := range trialApplications {
		if !c.freshOf(application, from) {
			return false
		}
	}
	return true
}

// haveAll says whether each of some records has come to somebody.
func (c *clients) haveAll(records []oracle.Record) bool {
	had := map[string]bool{}
	sockets, _ := c.received()
	for _, s := range sockets {
		for i := range s.Messages {
			had[s.Messages[i].ID] = true
		}
	}
	return !slices.ContainsFunc(records, func(r oracle.Record) bool { return !had[r.ID] })
}
