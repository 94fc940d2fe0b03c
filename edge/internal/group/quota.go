package group

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/singleflight"

	"canopy/shared/config"
)

// countFor is how long it is remembered which groups a stream has.
const countFor = 10 * time.Second

// quota bounds the groups that are made. Those of an application's members and those of its
// public readers are counted apart. Any goroutine may call it.
type quota struct {
	perApplication int
	makers         makers

	counting singleflight.Group // of streams, by shard and kind: members do not wait for others' slots

	mu       sync.Mutex
	censuses map[int]*census // by shard; those that are too old are not believed
}

// census is which groups a stream had at a time, with those made since.
type census struct {
	at     time.Time
	most   int            // consumers that the stream may have, 0 or less for any number
	public int            // groups of public readers, of all applications
	of     map[string]int // groups, by their account
}

func newQuota(l config.Limits) *quota {
	return &quota{
		perApplication: l.GroupsPerApplication, makers: newMakers(l, time.Now), censuses: map[int]*census{},
	}
}

// allow says why g, which does not exist yet, may not be made, or nil, and then how that is
// taken back if it is not made.
func (h *Hub) allow(ctx context.Context, g *Group, by Maker) (undo func(), _ error) {
	booked, err := h.quota.makers.book(g.key, by)
	if err != nil {
		return nil, err
	}
	discount, err := h.allowOneMore(ctx, g)
	if err != nil {
		booked.undo()
		return nil, err
	}
	return func() {
		booked.undo()
		discount()
	}, nil
}

// allowOneMore counts g among the groups of its stream; undo takes that back.
func (h *Hub) allowOneMore(ctx context.Context, g *Group) (undo func(), _ error) {
	if h.quota.perApplication <= 0 && !g.key.Public {
		return func() {}, nil
	}
	for {
		counted, err := h.quota.add(g.subject.shard, g.key, time.Now())
		if err != nil {
			return nil, err
		}
		if counted != nil {
			return func() { h.quota.subtract(g.subject.shard, g.key, counted) }, nil
		}
		if err := h.countOnce(ctx, g); err != nil {
			return nil, err
		}
	}
}

// add counts one more group in a census, unless the error says that there are too many. It is
// nil if that is not known.
func (q *quota) add(shard int, key Key, now time.Time) (counted *census, _ error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.censuses[shard]
	if c == nil || now.Sub(c.at) >= countFor {
		return nil, nil
	}
	if n := c.of[key.account()]; q.perApplication > 0 && n >= q.perApplication {
		return nil, fmt.Errorf("%w: %d", ErrTooManyGroups, n)
	}
	if key.Public {
		if c.most > 0 && c.public >= c.most/publicShare {
			return nil, fmt.Errorf("%w in this stream: %d", ErrTooManyPublic, c.public)
		}
		c.public++
	}
	c.of[key.account()]++
	return c, nil
}

// subtract takes back that a group was counted in a census: it was not made. A later census
// has not counted it.
func (q *quota) subtract(shard int, key Key, counted *census) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.censuses[shard] != counted {
		return
	}
	if key.Public {
		counted.public--
	}
	if counted.of[key.account()]--; counted.of[key.account()] == 0 {
		delete(counted.of, key.account())
	}
}

// learn takes what a stream has, and forgets what is too old.
func (q *quota) learn(shard int, c *census) {
	q.mu.Lock()
	defer q.mu.Unlock()
	maps.DeleteFunc(q.censuses, func(_ int, old *census) bool { return c.at.Sub(old.at) >= countFor })
	q.censuses[shard] = c
}

// countOnce is count for many that ask at the same time: thousands of new groups must not
// each list thousands of consumers. It waits no longer than ctx.
func (h *Hub) countOnce(ctx context.Context, g *Group) error {
	counted := h.quota.counting.DoChan(g.key.kind()+strconv.Itoa(g.subject.shard), func() (any, error) {
		ctx, cancel := context.WithTimeout(h.context, namesTimeout)
		defer cancel()
		c, err := h.count(ctx, g)
		if err == nil {
			h.quota.learn(g.subject.shard, c)
		}
		return nil, err
	})
	select {
	case r := <-counted:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// count finds out which groups there are in g's stream, on all edges, and how many of them it
// may have.
func (h *Hub) count(ctx context.Context, g *Group) (*census, error) {
	c := &census{of: map[string]int{}}
	err := h.request(ctx, g, func(ctx context.Context) error {
		s, err := h.js.Stream(ctx, g.subject.stream)
		if err != nil {
			return fmt.Errorf("ask for stream %s: %w", g.subject.stream, err)
		}
		c.most = s.CachedInfo().Config.MaxConsumers
		return nil
	})
	if err != nil {
		return nil, err
	}
	for offset, total := 0, 1; offset < total; {
		var page struct {
			Total     int                 `json:"total"`
			Consumers []string            `json:"consumers"`
			Error     *jetstream.APIError `json:"error"`
		}
		query := struct {
			Offset int `json:"offset"`
		}{offset}
		if err := h.ask(ctx, g, "$JS.API.CONSUMER.NAMES."+g.subject.stream, query, &page); err != nil {
			return nil, fmt.Errorf("list the consumers of %s: %w", g.subject.stream, err)
		}
		if page.Error != nil {
			return nil, fmt.Errorf("list the consumers of %s: %w", g.subject.stream, page.Error)
		}
		for _, name := range page.Consumers {
			c.note(name)
		}
		if total = page.Total; len(page.Consumers) == 0 {
			break
		}
		offset += len(page.Consumers)
	}
	c.at = time.Now()
	return c, nil
}

// note counts the group that a consumer is of.
func (c *census) note(consumer string) {
	account, public, ok := accountOf(consumer)
	if !ok {
		return
	}
	c.of[account]++
	if public {
		c.public++
	}
}
