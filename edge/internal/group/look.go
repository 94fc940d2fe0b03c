package group

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"canopy/shared/event"
)

const (
	deletedAdvisory = "$JS.EVENT.ADVISORY.CONSUMER.DELETED."
	createdAdvisory = "$JS.EVENT.ADVISORY.CONSUMER.CREATED."

	lookEvery = 30 * time.Second

	// lookSingle is lookEvery for consumers of one copy, whose node may be away. What a
	// failover repeats came after the last look.
	lookSingle = 3 * time.Second

	// looksPerSecond bounds the questions about consumers when there are very many groups.
	looksPerSecond = 500
	looksAtOnce    = 32
)

// consumerDeleted takes JetStream's advisory: groups with members look at once.
func (h *Hub) consumerDeleted(msg *nats.Msg) {
	if g := h.advised(msg, deletedAdvisory); g != nil {
		g.lookSoon()
	} else {
		h.losses.drop(strings.TrimPrefix(msg.Subject, deletedAdvisory))
		h.failures.drop(strings.TrimPrefix(msg.Subject, deletedAdvisory))
	}
}

// consumerCreated takes JetStream's advisory: another edge may have made a consumer again
// that this one was about to.
func (h *Hub) consumerCreated(msg *nats.Msg) {
	if g := h.advised(msg, createdAdvisory); g != nil {
		g.mu.Lock()
		g.seen.failing = 0
		g.mu.Unlock()
	}
}

// advised finds the group of an advisory, nil if this edge has none.
func (h *Hub) advised(msg *nats.Msg, prefix string) *Group {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.byConsumer[strings.TrimPrefix(msg.Subject, prefix)]
}

// Reconnected must be called when the connection of events stands again: what JetStream has
// said meanwhile was not heard.
func (h *Hub) Reconnected() {
	for _, g := range h.all() {
		g.mu.Lock()
		g.seen.at, g.seen.unsure = 0, true
		g.mu.Unlock()
	}
}

func (g *Group) lookSoon() {
	g.mu.Lock()
	g.seen.at = 0
	g.mu.Unlock()
}

// lookAgain asks from time to time whether the consumers of groups with members are there.
func (h *Hub) lookAgain(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		looks, ctx := errgroup.WithContext(ctx)
		looks.SetLimit(looksAtOnce)
		for _, g := range h.due() {
			looks.Go(func() error { h.look(ctx, g); return nil })
		}
		_ = looks.Wait()
	}
}

// due lists the groups that have not been looked at for a while, the longest first.
func (h *Hub) due() []*Group {
	every := lookEvery
	if h.config.Groups.Replicas == 1 {
		every = lookSingle
	}
	type dueAt struct {
		group *Group
		at    time.Duration
	}
	now := h.now()
	var all []dueAt
	h.mu.RLock()
	for _, g := range h.groups {
		g.mu.Lock()
		if (g.sockets > 0 || g.doubts()) && g.isOpen() && g.seen.due(now, every, h.losses.first(g.subject.name(), g.log(), now) > 0) {
			all = append(all, dueAt{g, g.seen.at})
		}
		g.mu.Unlock()
	}
	h.mu.RUnlock()
	if len(all) > looksPerSecond {
		slices.SortFunc(all, func(a, b dueAt) int { return cmp.Compare(a.at, b.at) })
		all = all[:looksPerSecond]
	}
	list := make([]*Group, len(all))
	for i := range all {
		list[i] = all[i].group
	}
	return list
}

// dropDoubts forgets what g may have lost if it has no member. It is false if it has some.
func (g *Group) dropDoubts() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sockets > 0 {
		return false
	}
	g.seen.unsure, g.seen.risk, g.rotation.ceded = false, 0, ceded{}
	return true
}

// lookAtRisks looks at the groups that may have lost something, since nobody does later.
func (h *Hub) lookAtRisks(ctx context.Context) {
	if !h.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var looks errgroup.Group
	looks.SetLimit(looksAtOnce)
	for _, g := range h.all() {
		g.mu.Lock()
		risk := g.seen.risk > 0
		g.mu.Unlock()
		if risk {
			looks.Go(func() error { h.look(ctx, g); return nil })
		}
	}
	_ = looks.Wait() // its functions return no errors
}

// isOpen says whether opening has succeeded. mu is held.
func (g *Group) isOpen() bool { return g.logID.Load() != 0 }

// look sees to it that the group's consumer is there, and the one that it knows.
func (h *Hub) look(ctx context.Context, g *Group) {
	g.mu.Lock()
	g.pins++ // or it is forgotten meanwhile
	g.mu.Unlock()
	asked := h.now()
	info, err := h.inspect(ctx, g)
	defer func() {
		g.mu.Lock()
		g.pins--
		if err != nil && g.sockets == 0 {
			g.seen.at = h.now() // there is no hurry
		}
		g.mu.Unlock()
	}()
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound) && g.dropDoubts():
		err = nil // its place is gone, and it is made again when somebody comes
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		err = h.makeAgain(ctx, g)
	case err == nil:
		if err = h.learnLimits(ctx, g, lookEvery); err != nil {
			break
		}
		g.mu.Lock()
		seen := g.seen
		g.mu.Unlock()
		if !info.Created.Equal(seen.created) { // another edge has made it again
			if _, _, err = h.identify(ctx, g); err != nil {
				break
			}
		}
		err = h.see(ctx, g, info, asked, seen.behind) // one that is not may have been quiet for longer than the log's age
	default:
		err = h.missed(ctx, g, err)
	}
	if err != nil && ctx.Err() == nil {
		h.stats.lookErrors.Inc()
		h.log.Debug("look at a group's consumer", zap.Stringer("group", g.key), zap.Error(err))
	}
}

// identify forgets what g knows of its stream if that is another one now, and gives the
// sequence of its oldest event.
func (h *Hub) identify(ctx context.Context, g *Group) (another bool, first uint64, err error) {
	log, first, err := h.streamOf(ctx, g)
	if err != nil || log == g.log() {
		return false, first, err
	}
	g.mu.Lock()
	g.rotation.restart()
	g.seen = sight{}
	g.logID.Store(uint64(log))
	h.losses.drop(g.subject.name())
	g.schedule()
	return true, first, nil
}

// makeAgain makes a consumer that is gone: where it stopped, as far as this edge knows, or
// from the beginning if the stream is another one.
func (h *Hub) makeAgain(ctx context.Context, g *Group) error {
	another, first, err := h.identify(ctx, g)
	if err != nil {
		return err
	}
	if another {
		h.tell(g, event.GapLog, 0, first) // before its events can come
	}
	g.mu.Lock()
	floor := g.seen.floor
	g.seen.remade(h.now())
	g.mu.Unlock()
	asked := h.now()
	info, err := h.create(ctx, g, after(floor))
	if err != nil {
		return err
	}
	h.stats.remade.Inc()
	h.log.Warn("a group's consumer was gone and is made again", zap.Stringer("group", g.key),
		zap.Bool("other stream", another), zap.Uint64("after", floor))
	return h.see(ctx, g, info, asked, !another)
}
