package session

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"canopy/edge/internal/ws"
)

// tellUnread is the time between two lines of the log about sockets that do not read.
const tellUnread = 10 * time.Second

// unreads bounds what the log says of sockets that were cut because they do not read. The
// zero value is ready; any goroutine may call it.
type unreads struct {
	mu    sync.Mutex
	told  time.Time
	since int // sockets cut since then, which no line names
}

// next counts a socket, and says whether it is to be named now, with how many were not.
func (u *unreads) next(now time.Time) (unnamed int, tell bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.told.IsZero() && now.Sub(u.told) < tellUnread {
		u.since++
		return 0, false
	}
	unnamed, u.told, u.since = u.since, now, 0
	return unnamed, true
}

// unread counts s, which is cut because it does not read, and logs it unless that was done
// a moment ago.
func (r *Registry) unread(s *Session, why ws.Unread) {
	r.stats.unread.WithLabelValues(string(why)).Inc()
	if unnamed, tell := r.unreads.next(time.Now()); tell {
		r.log.Warn("cut a socket that does not read", zap.String("cause", string(why)),
			zap.String("application", s.Application), zap.String("user", s.Principal().User),
			zap.Int("others_since_last_line", unnamed))
	}
}
