package gateway

import (
	"context"
	"errors"
	"net/http"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/authz"
	"canopy/edge/internal/feed"
	"canopy/edge/internal/group"
	"canopy/edge/internal/session"
)

// Seconds after which a client that has too many may try again: when some of its sockets
// may have ended, or to make a group.
const (
	socketsRetryAfter = 10
	groupsRetryAfter  = 60
)

// attach gives s its place in the application's feed, or in a group of those who read it as s
// does.
func (a *admission) attach(ctx context.Context, r *http.Request, to target, as authz.Access, s *session.Session) *refusal {
	var err error
	what := "The event log"
	if to.group == nil {
		since := to.since.For(a.reader(r, s.Principal()))
		err = a.hub.Attach(ctx, to.application, to.filter, since, s, &s.Reader)
	} else {
		what = "The group"
		by := group.Maker{User: s.Principal().User, Address: network(a.clientAddress(r)).String()}
		s.Member, err = a.groups.Join(ctx, to.key(as), by, s)
		if err == nil && s.Reader.Deflates() {
			s.Member.Deflate()
		}
	}
	switch {
	case err == nil:
		return nil
	case r.Context().Err() != nil:
		return gone(err)
	default:
		return a.noPlace(what, err)
	}
}

// noPlace says why there is no place in what.
func (a *admission) noPlace(what string, err error) *refusal {
	var made *group.TooManyNew
	var read *feed.TooMuchRead
	switch {
	case errors.As(err, &read):
		return tooMany("Too much was read from the log for this user or address", seconds(read.RetryAfter))
	case errors.Is(err, group.ErrTooManyGroups):
		a.limits.groups.Inc()
		return tooMany("Too many groups of this application", groupsRetryAfter)
	case errors.Is(err, group.ErrTooManyPublic):
		a.limits.publicGroups.Inc()
		return tooMany("Too many groups of public readers", groupsRetryAfter)
	case errors.As(err, &made):
		message, counter := "Too many new groups from this address", a.limits.newGroups
		if made.OfUser {
			message = "Too many new groups of this user"
		}
		if made.SignedIn {
			counter = a.limits.usersGroups
		}
		counter.Inc()
		return tooMany(message, seconds(made.RetryAfter))
	default:
		return unavailable(what+" is not available", err)
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
