package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/authz"
	"canopy/edge/internal/feed"
	"canopy/edge/internal/group"
)

// longestName is how long the name of a channel or a device may be, in bytes
// as they are, not as they are encoded. A socket keeps its names for as long as it is open.
const longestName = 1 << 10

// target is what a request asks for. A socket keeps it, and so its names are copies: else
// each would keep the whole line of its request, with whatever stands there besides, a token
// perhaps.
type target struct {
	application string
	filter      feed.Filter
	group       *string // group_id, nil if it was not given
	since       feed.Since
	credentials authn.Query
}

// key names the group for somebody with access to the application. Its members share groups
// with each other only, so that nobody who passes by takes their events.
func (t target) key(as authz.Access) group.Key {
	return group.Key{
		Application: t.application, Channel: t.filter.Channel, ByChannel: t.filter.ByChannel,
		Public: as != authz.Member, Name: *t.group,
	}
}

// parsePath reads /{application}[/{channel}], both percent-decoded. "/app/" is "/app".
// It is false for any other path; net/http has refused bad percent-encodings before.
func parsePath(escaped string) (application string, filter feed.Filter, ok bool) {
	segments := strings.Split(strings.TrimPrefix(escaped, "/"), "/")
	if len(segments) == 2 && segments[1] == "" {
		segments = segments[:1]
	}
	if len(segments) > 2 || segments[0] == "" || segments[0] == "-" {
		return "", feed.Filter{}, false
	}
	application, err := url.PathUnescape(segments[0])
	if err != nil {
		return "", feed.Filter{}, false
	}
	application = strings.Clone(application)
	if len(segments) == 2 {
		channel, err := url.PathUnescape(segments[1])
		if err != nil {
			return "", feed.Filter{}, false
		}
		filter = feed.Filter{Channel: strings.Clone(channel), ByChannel: true}
	}
	return application, filter, true
}

// parameters are those that a query may hold; all others are ignored.
var parameters = []string{"group_id", "token", "username", "api_key", "since", "device"}

// parseQuery reads the known parameters that were given. One that is given twice or cannot
// be decoded is refused.
func parseQuery(raw string) (map[string]string, *refusal) {
	given := make(map[string]string)
	for pair := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err != nil || !slices.Contains(parameters, name) {
			continue
		}
		if _, twice := given[name]; twice {
			return nil, badRequest("Parameter given twice: " + name)
		}
		if given[name], err = url.QueryUnescape(value); err != nil {
			return nil, badRequest("Bad percent-encoding in parameter: " + name)
		}
	}
	return given, nil
}

// parseTarget reads what a request asks for.
func parseTarget(r *http.Request) (target, *refusal) {
	application, filter, ok := parsePath(r.URL.EscapedPath())
	if !ok {
		return target{}, noSuchPath()
	}
	query, refused := parseQuery(r.URL.RawQuery)
	if refused != nil {
		return target{}, refused
	}
	switch {
	case len(filter.Channel) > longestName:
		return target{}, badRequest("Bad channel: expected at most 1024 bytes")
	case len(query["device"]) > longestName:
		return target{}, badRequest("Bad parameter device: expected at most 1024 bytes")
	}
	filter.Device, filter.ByDevice = strings.Clone(query["device"]), has(query, "device")
	credentials := authn.Query{
		Token:    optional(query, "token"),
		Username: optional(query, "username"),
		APIKey:   optional(query, "api_key"),
	}
	t := target{application: application, filter: filter, group: optional(query, "group_id"), credentials: credentials}
	if t.group != nil {
		*t.group = strings.Clone(*t.group)
	}
	if has(query, "since") {
		var err error
		if t.since, err = feed.ParseSince(query["since"]); err != nil {
			return t, badRequest("Bad parameter since: " + err.Error())
		}
	}
	switch {
	case t.group == nil:
	case *t.group == "" || len(*t.group) > group.MaxName:
		return t, badRequest("Bad group_id: expected 1 to 128 bytes")
	case filter.ByDevice:
		return t, badRequest("Parameters exclude each other: group_id and device")
	case has(query, "since"):
		return t, badRequest("Parameters exclude each other: group_id and since")
	}
	return t, nil
}

func has(query map[string]string, name string) bool {
	_, ok := query[name]
	return ok
}

// optional is a parameter's value, nil if it was not given.
func optional(query map[string]string, name string) *string {
	value, ok := query[name]
	if !ok {
		return nil
	}
	return &value
}
