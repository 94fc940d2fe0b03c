package natsconn

import (
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

const (
	// quiet is the time for which repeats of a kind of error are only counted.
	quiet = 10 * time.Second

	// maxKinds bounds the memory for errors that are told apart; further ones share one entry.
	maxKinds = 64

	otherKinds = "other"
)

// watcher logs what happens to one connection and passes it on. nats.go calls its methods
// one after the other, and the lock is there because that is nowhere promised.
type watcher struct {
	h   Handlers
	log *zap.Logger

	mu   sync.Mutex
	seen map[string]sighting
	away string // the last reason that was logged for not reaching any server
}

// sighting is the last line of one kind of error, and how often it came since.
type sighting struct {
	logged  time.Time
	repeats int
}

func newWatcher(h Handlers, log *zap.Logger) *watcher {
	return &watcher{h: h, log: log, seen: make(map[string]sighting)}
}

func (w *watcher) connected(nc *nats.Conn) {
	w.reached(nc, "connected to NATS")
	if w.h.Connected != nil {
		w.h.Connected(nc)
	}
}

func (w *watcher) reconnected(nc *nats.Conn) {
	w.reached(nc, "connected to NATS again")
	if w.h.Reconnected != nil {
		w.h.Reconnected(nc)
	}
}

func (w *watcher) reached(nc *nats.Conn, message string) {
	w.mu.Lock()
	w.away = ""
	w.mu.Unlock()
	w.log.Info(message, zap.String("server", nc.ConnectedUrlRedacted()), zap.String("server_name", nc.ConnectedServerName()))
}

func (w *watcher) disconnected(nc *nats.Conn, err error) {
	if !nc.IsClosed() {
		w.log.Warn("lost the connection to NATS", zap.Error(err))
	}
	if w.h.Disconnected != nil {
		w.h.Disconnected(nc, err)
	}
}

// notReached comes for every attempt, so only a new reason is worth a line.
func (w *watcher) notReached(_ *nats.Conn, err error) {
	reason := err.Error()
	w.mu.Lock()
	news := w.away != reason
	w.away = reason
	w.mu.Unlock()
	if news {
		w.log.Warn("cannot reach NATS, trying on", zap.Error(withoutURL(err)))
	}
}

func (w *watcher) asyncError(nc *nats.Conn, sub *nats.Subscription, err error) {
	if repeats, ok := w.due(kind(err), time.Now()); ok {
		w.logAsync(sub, err, repeats)
	}
	if w.h.AsyncError != nil {
		w.h.AsyncError(nc, sub, err)
	}
}

func (w *watcher) logAsync(sub *nats.Subscription, err error, repeats int) {
	fields := []zap.Field{zap.Error(err)}
	if subject, ok := refusedSubject(err); ok {
		fields = append(fields, zap.String("subject", subject))
	} else if sub != nil {
		fields = append(fields, zap.String("subject", sub.Subject))
	}
	if repeats > 0 {
		fields = append(fields, zap.Int("repeats", repeats))
	}
	switch {
	case errors.Is(err, nats.ErrPermissionViolation):
		w.log.Error("NATS refuses permission", fields...)
	case errors.Is(err, nats.ErrSlowConsumer):
		w.log.Warn("a subscription is too slow, messages were dropped", fields...)
	default:
		w.log.Warn("NATS reports an error", fields...)
	}
}

func (w *watcher) lameDuck(nc *nats.Conn) {
	w.log.Info("the NATS server is about to shut down", zap.String("server", nc.ConnectedUrlRedacted()))
	if w.h.LameDuck != nil {
		w.h.LameDuck(nc)
	}
}

func (w *watcher) closed(nc *nats.Conn) {
	w.log.Info("the connection to NATS is closed", zap.NamedError("last_error", nc.LastError()))
	if w.h.Closed != nil {
		w.h.Closed(nc)
	}
}

// due says whether an error of this kind is logged at now, and how many before it were not.
func (w *watcher) due(kind string, now time.Time) (repeats int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, known := w.seen[kind]
	if !known && len(w.seen) >= maxKinds {
		w.forget(now)
		if len(w.seen) >= maxKinds {
			kind = otherKinds
			s, known = w.seen[kind]
		}
	}
	if known && now.Sub(s.logged) < quiet {
		s.repeats++
		w.seen[kind] = s
		return 0, false
	}
	w.seen[kind] = sighting{logged: now}
	return s.repeats, true
}

func (w *watcher) forget(now time.Time) {
	for k, s := range w.seen {
		if now.Sub(s.logged) >= quiet {
			delete(w.seen, k)
		}
	}
}

// kind is what makes two errors the same for the log. A refused permission is told apart
// by its subject, since each is a mistake of its own to mend; slow consumers are not,
// since a burst makes thousands of subscriptions slow at once.
func kind(err error) string {
	if errors.Is(err, nats.ErrSlowConsumer) {
		return nats.ErrSlowConsumer.Error()
	}
	return err.Error()
}
