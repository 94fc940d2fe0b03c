package group

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"canopy/shared/config"
)

const (
	// newcomersPer is the time for which new groups of one address are counted.
	newcomersPer = time.Hour

	// countFor is how long the number of an application's groups is remembered.
	countFor = 10 * time.Second

	// maxRemembered bounds the addresses and applications that are told apart.
	maxRemembered = 64 << 10
)

// quota bounds the groups that are made. Any goroutine may call it.
type quota struct {
	perApplication, perAddress int

	counting singleflight.Group // lists of consumers that are under way, by application

	mu        sync.Mutex
	began     time.Time // of this hour
	addresses map[string]int
	counts    map[string]counted
}

// counted is how many groups an application had at a time, with those made since.
type counted struct {
	at time.Time
	n  int
}

func newQuota(l config.Limits) *quota {
	return &quota{
		perApplication: l.GroupsPerApplication, perAddress: l.NewGroupsPerAddress,
		addresses: map[string]int{}, counts: map[string]counted{},
	}
}

// allow says why g, which does not exist yet, may not be made, or nil. Groups of those who
// have signed in and of others are counted apart. Of an address's new groups forgive must
// be called if none was made.
func (h *Hub) allow(ctx context.Context, g *Group, address string) error {
	if g.key.Anonymous && !h.quota.newcomer(address, time.Now()) {
		return ErrTooManyNew
	}
	err := h.allowOneMore(ctx, g)
	if err != nil {
		h.quota.forgive(g, address)
	}
	return err
}

// forgive takes back that address has made g. An address that has made nothing else is
// forgotten, so that those who are refused push out nobody.
func (q *quota) forgive(g *Group, address string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch n := q.addresses[address]; {
	case !g.key.Anonymous:
	case n > 1:
		q.addresses[address] = n - 1
	case n == 1:
		delete(q.addresses, address)
	}
}

func (h *Hub) allowOneMore(ctx context.Context, g *Group) error {
	limit := h.quota.perApplication
	if limit <= 0 {
		return nil
	}
	n, fresh := h.quota.known(g.key.account(), time.Now())
	if !fresh {
		var err error
		if n, err = h.countOnce(ctx, g); err != nil {
			return err
		}
	}
	if n >= limit {
		return fmt.Errorf("%w: %d", ErrTooManyGroups, n)
	}
	if !h.quota.add(g.key.account(), n, time.Now()) {
		return fmt.Errorf("%w: %d", ErrTooManyGroups, limit) // others came at the same time
	}
	return nil
}

// countOnce is count for many that ask at the same time: thousands of new groups must not
// each list thousands of consumers. It waits no longer than ctx.
func (h *Hub) countOnce(ctx context.Context, g *Group) (int, error) {
	counted := h.quota.counting.DoChan(g.key.account(), func() (any, error) {
		ctx, cancel := context.WithTimeout(h.context, namesTimeout)
		defer cancel()
		return h.count(ctx, g)
	})
	select {
	case r := <-counted:
		if r.Err != nil {
			return 0, r.Err
		}
		return r.Val.(int), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (q *quota) known(application string, now time.Time) (n int, fresh bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	c, ok := q.counts[application]
	return c.n, ok && now.Sub(c.at) < countFor
}

// add counts one more group of application, unless there are too many. n is how many there
// were, if nothing newer is known: others may have asked at the same time, and been faster.
func (q *quota) add(application string, n int, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	c, ok := q.counts[application]
	if !ok || now.Sub(c.at) >= countFor {
		if len(q.counts) >= maxRemembered {
			clear(q.counts) // they are asked for again
		}
		c = counted{now, n}
	}
	if c.n >= q.perApplication {
		q.counts[application] = c
		return false
	}
	c.n++
	q.counts[application] = c
	return true
}

// newcomer counts a new group of an address, unless it has made too many in this hour.
func (q *quota) newcomer(address string, now time.Time) bool {
	if q.perAddress <= 0 {
		return true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if now.Sub(q.began) >= newcomersPer {
		q.began = now
		clear(q.addresses)
	}
	if _, ok := q.addresses[address]; !ok && len(q.addresses) >= maxRemembered {
		address = "" // all further ones share one account
	}
	if q.addresses[address] >= q.perAddress {
		return false
	}
	q.addresses[address]++
	return true
}
