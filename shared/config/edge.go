package config

import (
	"maps"
	"slices"
	"time"
)

const (
	mebibyte = 1 << 20

	// maxMessages is what a socket can count in the room that it has for it.
	maxMessages = 65534

	// leastReplay is more than what is read at once, and mostReplay can be counted in parts of
	// an event.
	leastReplay = 10_000
	mostReplay  = 1_000_000_000

	// longest bounds the intervals of pings, so that a dead socket does not stay for days.
	longest = time.Hour

	// longestStale bounds for how long access may be granted that nobody confirms.
	longestStale = 24 * time.Hour
)

// ValidateEdge reports everything that keeps an edge from starting with cfg, as a
// Problems. Settings of ingest are not looked at.
func (cfg Config) ValidateEdge() error {
	c := newCheck(cfg)
	c.common(cfg)
	c.access(cfg)
	c.listener(cfg.HTTP)
	c.clients(cfg.OAuth)
	c.edge(cfg.Edge)
	return c.problems.orNil()
}

func (c *check) access(cfg Config) {
	file, service := cfg.Edge.ApplicationsFile != "", cfg.UserAuth.URL != ""
	c.that(file || service, "EDGE__APPLICATIONS_FILE", "expected a file: there is no default for who may read what")
	c.that(!file || !service, "EDGE__APPLICATIONS_FILE", "expected one source of access, but USER_AUTH__URL is set, too")
	c.service("USER_AUTH", cfg.UserAuth, cfg.OAuth.IssuerURL)
	c.service("REGISTRY", cfg.Registry, cfg.OAuth.IssuerURL)
	c.that(cfg.Registry.URL == "" || service, "REGISTRY__URL", "expected USER_AUTH__URL beside it")
	c.duration("EDGE__ACCESS_CACHE", cfg.Edge.AccessCache, time.Second)
	c.that(cfg.Edge.AccessCache <= longest, "EDGE__ACCESS_CACHE", "expected at most "+longest.String())
	c.duration("EDGE__ACCESS_STALE", cfg.Edge.AccessStale, 0)
	c.that(cfg.Edge.AccessStale <= longestStale, "EDGE__ACCESS_STALE", "expected at most "+longestStale.String())
}

// service checks one of Drogue's services; issuer is the one that it falls back on.
func (c *check) service(name string, s Service, issuer string) {
	if s.URL == "" {
		alone := "has no effect without " + name + separator + "URL"
		c.that(s.ClientID == "", name+separator+"CLIENT_ID", alone)
		c.that(s.ClientSecret == "", name+separator+"CLIENT_SECRET", alone)
		c.that(s.IssuerURL == "", name+separator+"ISSUER_URL", alone)
		return
	}
	c.url(name+separator+"URL", s.URL, "the service is asked with tokens")
	_, query := hides(s.URL)
	c.hidden(!query, name+separator+"URL", "expected no query in the URL: the service is asked with tokens")
	c.that(s.ClientID != "", name+separator+"CLIENT_ID", "expected the OAuth2 client of the calls")
	c.that(s.ClientSecret != "", name+separator+"CLIENT_SECRET", "expected the secret of that client")
	c.issuer(name+separator+"ISSUER_URL", s.IssuerURL)
	c.that(s.IssuerURL != "" || issuer != "", name+separator+"ISSUER_URL", "expected an issuer here or in OAUTH__ISSUER_URL")
}

func (c *check) listener(h HTTP) {
	c.address("HTTP__BIND_ADDR", h.BindAddr)
	if isAddress(h.BindAddr, 0) {
		// On loopback nobody else listens in, so nothing has to be said there.
		c.that(h.TLS() || h.DisableTLS || isLoopback(h.BindAddr), "HTTP__BIND_ADDR",
			"expected HTTP__CERT_BUNDLE_FILE and HTTP__KEY_FILE, or HTTP__DISABLE_TLS=true behind a proxy that ends TLS")
	}
	c.pair("HTTP__CERT_BUNDLE_FILE", h.CertBundleFile, "HTTP__KEY_FILE", h.KeyFile)
	c.that(!h.DisableTLS || h.CertBundleFile == "", "HTTP__CERT_BUNDLE_FILE", "has no effect with HTTP__DISABLE_TLS=true")
	c.oneOf("HTTP__CORS__MODE", h.CORS.Mode, "disabled", "permissive")
	proxies, err := Prefixes(h.TrustedProxies)
	if err != nil {
		c.that(false, "HTTP__TRUSTED_PROXIES", err.Error())
	}
	for _, p := range proxies {
		c.that(p.Bits() > 0, "HTTP__TRUSTED_PROXIES", "expected the addresses of proxies, not all that there are: each can pose as any client")
	}
}

// url checks an address that is asked over HTTP without a user, for the reason why.
func (c *check) url(name, text, why string) {
	user, _ := hides(text)
	c.hidden(!user, name, "expected no user in the URL: "+why)
	c.that(user || isHTTPURL(text), name, "expected an http or https URL")
}

func (c *check) issuer(name, text string) {
	if text != "" {
		c.url(name, text, "what an issuer publishes is for everybody")
	}
}

func (c *check) limits(l Limits) {
	for _, limit := range []struct {
		name string
		most int
	}{
		{"CONNECTIONS", l.Connections},
		{"CONNECTIONS_PER_APPLICATION", l.ConnectionsPerApplication},
		{"CONNECTIONS_PER_USER", l.ConnectionsPerUser},
		{"CONNECTIONS_PER_ADDRESS", l.ConnectionsPerAddress},
		{"CONNECTIONS_PER_SECOND", l.ConnectionsPerSecond},
		{"HALF_OPEN", l.HalfOpen},
		{"HALF_OPEN_PER_ADDRESS", l.HalfOpenPerAddress},
		{"HANDSHAKES_PER_SECOND", l.HandshakesPerSecond},
		{"MESSAGES_PER_SECOND", l.MessagesPerSecond},
	} {
		c.atLeast("EDGE__LIMITS__"+limit.name, int64(limit.most), 0, "0")
	}
	c.that(l.ReplayEventsPerMinute == 0 || l.ReplayEventsPerMinute >= leastReplay && l.ReplayEventsPerMinute <= mostReplay,
		"EDGE__LIMITS__REPLAY_EVENTS_PER_MINUTE", "expected 0, or 10000 to 1000000000")
	c.that(l.MessagesPerSecond <= maxMessages, "EDGE__LIMITS__MESSAGES_PER_SECOND", "expected at most 65534")
	// A token must fit into a message, which refreshes it, and into a header.
	c.that(l.MessageBytes >= 8<<10 && l.MessageBytes <= 16*mebibyte, "EDGE__LIMITS__MESSAGE_BYTES", "expected 8KiB to 16MiB")
	c.that(l.HeaderBytes >= 8<<10 && l.HeaderBytes <= mebibyte, "EDGE__LIMITS__HEADER_BYTES", "expected 8KiB to 1MiB")
	c.that(l.HeaderLines >= 20 && l.HeaderLines <= 10000, "EDGE__LIMITS__HEADER_LINES", "expected 20 to 10000")
}

func (c *check) clients(o OAuth) {
	c.issuer("OAUTH__ISSUER_URL", o.IssuerURL)
	c.that(o.IssuerURL == "" || len(o.Clients) > 0, "OAUTH__ISSUER_URL",
		"expected OAUTH__CLIENTS__0__CLIENT_ID beside it: a token must name a client as its audience")
	for _, n := range slices.Sorted(maps.Keys(o.Clients)) {
		client, prefix := o.Clients[n], "OAUTH__CLIENTS__"+n+"__"
		c.that(client.ClientID != "", prefix+"CLIENT_ID", "expected the client's id")
		c.issuer(prefix+"ISSUER_URL", client.IssuerURL)
		issuer := client.IssuerURL
		if issuer == "" {
			issuer = o.IssuerURL
		}
		c.that(issuer != "", prefix+"ISSUER_URL", "expected an issuer here or in OAUTH__ISSUER_URL")
	}
}

func (c *check) edge(e Edge) {
	c.limits(e.Limits)
	for _, origin := range e.AllowedOrigins {
		if _, err := Origin(origin); err != nil {
			c.that(false, "EDGE__ALLOWED_ORIGINS", err.Error())
		}
	}
	c.atLeast("EDGE__COMPRESS_FROM", e.CompressFrom, 0, "0")
	c.that(e.CompressFrom <= 16*mebibyte, "EDGE__COMPRESS_FROM", "expected at most 16MiB")
	c.ping("EDGE__PING__INTERVAL", e.Ping.Interval)
	c.ping("EDGE__PING__TIMEOUT", e.Ping.Timeout)
	b := e.Buffers
	c.duration("EDGE__BUFFERS__FEED_AGE", b.FeedAge, time.Second)
	c.atLeast("EDGE__BUFFERS__FEED_BYTES", b.FeedBytes, mebibyte, "1MiB")
	c.that(b.TotalBytes >= b.FeedBytes, "EDGE__BUFFERS__TOTAL_BYTES", "expected at least EDGE__BUFFERS__FEED_BYTES")
	c.atLeast("EDGE__BUFFERS__REPAIR_BYTES", b.RepairBytes, mebibyte, "1MiB")
	c.atLeast("EDGE__BUFFERS__REPLAY_BYTES", b.ReplayBytes, mebibyte, "1MiB")
	c.atLeast("EDGE__BUFFERS__SOCKET_BYTES", b.SocketBytes, mebibyte, "1MiB")
	c.atLeast("EDGE__BUFFERS__NATS_BYTES", b.NATSBytes, 4<<10, "4KiB")
	c.atLeast("EDGE__BUFFERS__GROUP_BYTES", b.GroupBytes, mebibyte, "1MiB")
	c.groups(e.Groups, e.Limits)
	c.that(e.Drain > 0, "EDGE__DRAIN", "expected more than 0s")
}

func (c *check) groups(g Groups, l Limits) {
	c.atLeast("EDGE__LIMITS__GROUPS_PER_APPLICATION", int64(l.GroupsPerApplication), 0, "0")
	c.atLeast("EDGE__LIMITS__NEW_GROUPS_PER_ADDRESS", int64(l.NewGroupsPerAddress), 0, "0")
	c.atLeast("EDGE__LIMITS__NEW_GROUPS_PER_USER", int64(l.NewGroupsPerUser), 0, "0")
	c.that(g.InFlight >= 64 && g.InFlight <= 16384, "EDGE__GROUPS__IN_FLIGHT", "expected 64 to 16384: NATS looks at all of them")
	c.that(g.MemberInFlight >= 1 && g.MemberInFlight <= g.InFlight, "EDGE__GROUPS__MEMBER_IN_FLIGHT", "expected 1 to EDGE__GROUPS__IN_FLIGHT")
	c.that(g.MaxDeliveries >= 0 && g.MaxDeliveries <= 1000, "EDGE__GROUPS__MAX_DELIVERIES", "expected 0 to 1000")
	c.duration("EDGE__GROUPS__ACK_WAIT", g.AckWait, 15*time.Second) // a member that does not answer is dropped before
	c.duration("EDGE__GROUPS__FORGET", g.Forget, time.Minute)
	c.that(g.Replicas >= 0 && g.Replicas <= 5, "EDGE__GROUPS__REPLICAS", "expected 0 to 5")
}

func (c *check) ping(name string, d time.Duration) {
	c.that(d >= time.Second && d <= longest && d%time.Second == 0, name, "expected whole seconds from 1s to 1h")
}
