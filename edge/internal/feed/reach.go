package feed

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

const (
	// A connection over which no stream's leader has answered for strandedAfter stands at a
	// server that is cut off from the others, as likely as not, and is moved to another one.
	reachEvery    = 2 * time.Second
	strandedAfter = 5 * time.Second

	// Between two moves of one connection there is moveFirst, and then twice as long each
	// time up to moveMost: where no stream has a leader, no other server is better.
	moveFirst = 10 * time.Second
	moveMost  = 2 * time.Minute

	// busyBytes have come over a connection since the last look if answers may only be late.
	busyBytes = 64 << 10

	// awayRetry is how long a question waits that met no connection.
	awayRetry = 100 * time.Millisecond
)

// link is one connection of the edge to NATS.
type link struct {
	nc      *nats.Conn
	history *history  // asks over it
	server  string    // that it was connected to when it was looked at last
	bytes   uint64    // that had come by then
	since   time.Time // when it was last seen to be of use, or had a new server
	heard   time.Time // when a leader answered over it
	moved   time.Time
	wait    time.Duration // from moved to the next move
}

// busy says whether much has come since the last time.
func (l *link) busy() bool {
	bytes := l.nc.Stats().InBytes
	before := l.bytes
	l.bytes = bytes
	return bytes-before >= busyBytes
}

// alone says whether its server is the only one, as far as it says: there is nowhere else to
// go. One that has leaf nodes or a port for a cluster may be alone and have a cluster's name.
func (l *link) alone() bool { return l.nc.ConnectedClusterName() == "" && len(l.nc.Servers()) <= 1 }

// note takes what a look at the link has shown, and says whether it is stranded. excused is
// for a connection that nats.go itself renews, that is busy, or that stays as it is alone.
func (l *link) note(now time.Time, server string, heard, excused bool) (stranded bool) {
	if heard {
		l.wait, l.heard = 0, now
	}
	if heard || excused || server != l.server {
		l.server, l.since = server, now // a new server has its chance, too
		return false
	}
	return now.Sub(l.since) >= strandedAfter && now.Sub(l.moved) >= l.wait
}

// move has the link's connection go to the next server that it knows.
func (l *link) move(now time.Time) error {
	l.moved, l.since = now, now
	l.wait = min(max(2*l.wait, moveFirst), moveMost)
	return l.nc.ForceReconnect()
}

// reach keeps the edge's connections at servers from which the streams' leaders can be
// reached. That of the questions is moved whenever none answers. The others are moved only
// if one answers over the questions', so that the fault is their server's.
func (h *Hub) reach(ctx context.Context) {
	links := []*link{{nc: h.history.nc}, {nc: h.nc}}
	for _, nc := range h.config.Others {
		links = append(links, &link{nc: nc})
	}
	now := h.now()
	for _, l := range links {
		l.history, l.since = &history{nc: l.nc, requests: h.history.requests}, now
	}
	ticker := time.NewTicker(reachEvery)
	defer ticker.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		shard := 0
		if n := h.shards(); n > 0 {
			shard = turn % n // one stream alone may be without a leader
		}
		h.lookAtLinks(ctx, links, shard)
	}
}

func (h *Hub) lookAtLinks(ctx context.Context, links []*link, shard int) {
	stranded := make([]bool, len(links))
	var group errgroup.Group
	for i, l := range links {
		group.Go(func() error {
			if !l.nc.IsConnected() {
				l.note(h.now(), l.server, false, true)
				return nil
			}
			server := l.nc.ConnectedServerId()
			_, err := l.history.info(ctx, shard, "")
			stranded[i] = l.note(h.now(), server, heard(err), l.busy() || l.alone())
			return nil
		})
	}
	_ = group.Wait() // its functions return no errors
	if ctx.Err() != nil {
		return
	}
	now := h.now()
	reached := now.Sub(links[0].heard) < strandedAfter
	for i, l := range links {
		if !stranded[i] || i > 0 && !reached {
			continue
		}
		h.stats.moves.Inc()
		h.zap.Warn("no stream's leader answers over a connection to NATS; it is moved to another server",
			zap.String("connection", l.nc.Opts.Name), zap.String("server", l.nc.ConnectedServerName()))
		if err := l.move(now); err != nil {
			h.zap.Debug("move a connection", zap.Error(err)) // it is closed: the edge ends
		}
	}
}

// heard says whether an answer came from a server that is in touch with a majority: a
// stream that does not exist is one that the cluster's leader knows nothing of.
func heard(err error) bool {
	var api *apiError
	return err == nil || errors.As(err, &api) && api.ErrCode == noSuchStream
}

const noSuchStream = 10059

func (h *Hub) shards() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.logs)
}

// away says whether a question failed because there was no connection to put it over, or
// because that broke before an answer came. Nothing was buffered: it has to be asked again.
func (h *history) away(err error) bool {
	return errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrDisconnected) ||
		errors.Is(err, nats.ErrConnectionClosed) && !h.nc.IsClosed()
}
