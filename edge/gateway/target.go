package gateway

import (
	"net/http"
	"net/url"
	"strings"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/feed"
	"canopy/edge/internal/group"
)

// target is what a request asks for.
type target struct {
	application string
	filter      feed.Filter
	group       *string // group_id, nil if it was not given
	credentials authn.Query
}

// key names the group for a principal.
func (t target) key(p authn.Principal) group.Key {
	return group.Key{
		Application: t.application, Channel: t.filter.Channel, ByChannel: t.filter.ByChannel,
		Anonymous: p.Kind == authn.Anonymous, Name: *t.group,
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
	if len(segments) == 2 {
		channel, err := url.PathUnescape(segments[1])
		if err != nil {
			return "", feed.Filter{}, false
		}
		filter = feed.Filter{Channel: channel, ByChannel: true}
	}
	return application, filter, true
}

// parseQuery reads the parameters that this version knows. Unknown ones are ignored, a
// known one that is given twice or cannot be decoded is refused, and so are those that
// would change the meaning of the stream and are not served yet.
func parseQuery(raw string) (authn.Query, *refusal) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return authn.Query{}, badRequest("Bad query string: percent-encoding or separator")
	}
	var q authn.Query
	for name, into := range map[string]**string{"token": &q.Token, "username": &q.Username, "api_key": &q.APIKey} {
		if list := values[name]; len(list) > 0 {
			*into = &list[0]
		}
	}
	for _, name := range []string{"group_id", "token", "username", "api_key", "since", "device"} {
		if len(values[name]) > 1 {
			return authn.Query{}, badRequest("Parameter given twice: " + name)
		}
	}
	if values.Has("since") {
		return authn.Query{}, badRequest("Parameter not supported by this version: since")
	}
	return q, nil
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
	values := r.URL.Query()
	if device := values["device"]; len(device) > 0 {
		filter.Device, filter.ByDevice = device[0], true
	}
	t := target{application: application, filter: filter, credentials: query}
	if !values.Has("group_id") {
		return t, nil
	}
	name := values.Get("group_id")
	t.group = &name
	switch {
	case name == "" || len(name) > group.MaxName:
		return t, badRequest("Bad group_id: expected 1 to 128 bytes")
	case filter.ByDevice || values.Has("since"):
		return t, badRequest("group_id cannot be combined with device or since")
	}
	return t, nil
}
