package gateway

import (
	"context"
	"errors"
	"net/http"

	"canopy/edge/internal/authn"
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
		since := to.since.For(a.reader(r, s.Principal()))
		err = a.hub.Attach(ctx, to.application, to.filter, since, s, &s.Reader)
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

// reader names whoever the log is read for: a user, or the address of a client that has not
// signed in.
func (a *admission) reader(r *http.Request, p authn.Principal) string {
	if p.Kind != authn.Anonymous {
		return "user " + p.User
	}
	return network(a.clientAddress(r)).String()
}
