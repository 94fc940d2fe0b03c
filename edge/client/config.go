package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// DefaultMaxMessage is the largest message that is taken unless Config says otherwise, in
// bytes. It is above what NATS carries for Canopy, 8 MiB.
const DefaultMaxMessage = 16 << 20

// Earliest, as Config.Since, begins with the oldest event that the log still has.
const Earliest = "earliest"

// ErrConfig ends a stream that has a Config that makes no sense.
var ErrConfig = errors.New("configure the client")

// TokenSource gives an OpenID token that is valid for some time yet. It is asked before
// every connection and shortly before a token ends, by one goroutine at a time, and should
// give a new token then. Its error is an attempt that failed, which is repeated.
type TokenSource func(ctx context.Context) (string, error)

// Config says what to receive, and as who. The zero value of a field that is not said to be
// required is a good default.
type Config struct {
	// Edge is the URL of the edge, or of what is in front of it: ws://host:port or
	// wss://host; http and https mean the same. A path is put before the application's.
	// Required. Over ws everybody on the way can read tokens and keys.
	Edge string

	// Application whose events to receive. Required.
	Application string

	// Channel keeps only events with exactly this subject, Device only those of this
	// device.
	Channel, Device string

	// Group makes this client a member of a group: events are split between its members,
	// and the group keeps its place by itself. Not with Device and Since.
	Group string

	// Since is where to begin: the Cursor of an event (what is behind it), a time in RFC
	// 3339, or Earliest. Without it events come from now on.
	Since string

	// Token signs in with an OpenID token and refreshes it before it expires; User and
	// APIKey sign in with an API key. With neither the client is anonymous; with both it
	// does not start.
	Token        TokenSource
	User, APIKey string

	// TLS is used for wss instead of Go's defaults.
	TLS *tls.Config

	// MaxMessage is the size in bytes above which a message is left out; DefaultMaxMessage if
	// it is 0. It bounds the client's memory: one message is held at a time. In place of such a
	// message comes an Event with a Gap, whose Reason is GapTooBig. A member of a group closes
	// the socket instead, so that another member may take it, and comes back.
	MaxMessage int64

	// GiveUp ends the stream with the last error when no connection could be made for this
	// long. 0 never gives up: the error of a wrong host name comes to OnWait only.
	GiveUp time.Duration

	// OnOpen is called when a connection is open, and OnWait when one has ended, or could
	// not be made, with the reason and how long the client waits before it tries again.
	// Both may be nil, and are called between two events by the goroutine that receives
	// them.
	OnOpen func()
	OnWait func(err error, delay time.Duration)
}

// validate reports every problem at once.
func (c *Config) validate() error {
	var problems []error
	bad := func(text string) { problems = append(problems, errors.New(text)) }
	u, err := url.Parse(c.Edge)
	switch {
	case err != nil:
		bad("the edge's URL cannot be read") // the error would repeat a password in it
	case u.Host == "" || u.Scheme != "ws" && u.Scheme != "wss" && u.Scheme != "http" && u.Scheme != "https":
		bad("the edge's URL must be ws://host:port or wss://host")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		bad("the edge's URL must have no user, query or fragment")
	}
	if c.Application == "" {
		bad("an application is needed")
	}
	if c.Group != "" && (c.Device != "" || c.Since != "") {
		bad("a group does not go with a device or with since")
	}
	if (c.User == "") != (c.APIKey == "") {
		bad("a user and an API key go together")
	}
	if c.Token != nil && c.APIKey != "" {
		bad("a token and an API key exclude each other")
	}
	if c.MaxMessage < 0 || c.GiveUp < 0 {
		bad("limits must not be negative")
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w: %w", ErrConfig, errors.Join(problems...))
	}
	return nil
}

// url is what a connection asks for, beginning at since.
func (c *Config) url(since string) string {
	u, _ := url.Parse(c.Edge) // validate has read it
	path := url.PathEscape(c.Application)
	if c.Channel != "" {
		path += "/" + url.PathEscape(c.Channel)
	}
	// In the escaped form, since a name may hold a slash.
	u.RawPath = strings.TrimSuffix(u.EscapedPath(), "/") + "/" + path
	u.Path, _ = url.PathUnescape(u.RawPath) // escaped a line above
	query := url.Values{}
	for name, value := range map[string]string{"group_id": c.Group, "device": c.Device, "since": since} {
		if value != "" {
			query.Set(name, value)
		}
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// header signs in.
func (c *Config) header(token string) http.Header {
	r := http.Request{Header: http.Header{}}
	switch {
	case token != "":
		r.Header.Set("Authorization", "Bearer "+token)
	case c.APIKey != "":
		r.SetBasicAuth(c.User, c.APIKey)
	}
	return r.Header
}

// httpClient makes the handshakes. It follows no redirects, which would carry credentials
// elsewhere and which the edge never sends.
func (c *Config) httpClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if c.TLS != nil {
		transport.TLSClientConfig = c.TLS.Clone()
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
