package gateway

import (
	"context"
	"errors"
	"net/http"

	"canopy/edge/internal/group"
	"canopy/edge/internal/session"
)

// Seconds after which a client that has too many may try again: when some of its sockets
// may have ended, or to make a group.
const (
	socketsRetryAfter   = 10
	groupsRetryAfter    = 60
	newGroupsRetryAfter = 3600
)

// attach gives s its place in the application's feed, or in a group.
func (a *admission) attach(ctx context.Context, r *http.Request, to target, s *session.Session) *refusal {
	var err error
	what := "The event log is not available"
	if to.group == nil {
		err = a.hub.Attach(ctx, to.application, to.filter, to.since, s, &s.Reader)
	} else {
		what = "The group is not available"
		s.Member, err = a.groups.Join(ctx, to.key(s.Principal()), network(a.clientAddress(r)).String(), s)
		if err == nil && s.Reader.Deflates() {
			s.Member.Deflate()
		}
	}
	switch {
	case err == nil:
		return nil
	case r.Context().Err() != nil:
		return gone(err)
	case errors.Is(err, group.ErrTooManyGroups):
		a.limits.groups.Inc()
		return tooMany("Too many groups of this application", groupsRetryAfter)
	case errors.Is(err, group.ErrTooManyNew):
		a.limits.newGroups.Inc()
		return tooMany("Too many new groups from this address", newGroupsRetryAfter)
	default:
		return unavailable(what, err)
	}
}
