// Package config holds every setting of both tiers and reads it, in one place, from a
// YAML file and the environment.
//
// A setting's name is the path of its fields' key tags joined by two underscores,
// upper case: Config.HTTP.BindAddr is HTTP__BIND_ADDR, and in the file bind_addr under
// http. Both tiers know all names, so that one environment file serves both.
package config

import "time"

// Config is everything that an operator can set. Load fills it, and the tags hold what
// --help prints: the default, and a sentence that states unit and danger. A setting
// tagged secret is never shown, and unit:"bytes" allows KiB, MiB and GiB.
type Config struct {
	Kafka    Kafka   `key:"kafka" help:"Kafka, which ingest reads"`
	NATS     NATS    `key:"nats" help:"NATS, which both tiers share"`
	OAuth    OAuth   `key:"oauth" help:"OpenID tokens, on the edge"`
	UserAuth Service `key:"user_auth" help:"Drogue's service of users, which the edge asks about API keys and access; instead of EDGE__APPLICATIONS_FILE"`
	Registry Service `key:"registry" help:"Drogue's device registry, which the edge asks, if it is set beside USER_AUTH__URL, whether an application exists"`
	HTTP     HTTP    `key:"http" help:"The WebSocket listener of the edge"`
	Runtime  Runtime `key:"runtime" help:"Health server and log of both tiers"`
	Edge     Edge    `key:"edge" help:"The edge"`
	Ingest   Ingest  `key:"ingest" help:"Ingest"`
}

// Kafka says where the devices' events lie and how to sign in there.
type Kafka struct {
	BootstrapServers []string        `key:"bootstrap_servers" help:"Kafka brokers, host:port, separated by commas"`
	Properties       KafkaProperties `key:"properties"`
}

// KafkaProperties carry librdkafka's names, as Drogue's configuration does.
type KafkaProperties struct {
	SecurityProtocol                   string `key:"security_protocol" default:"plaintext" help:"plaintext, ssl, sasl_plaintext or sasl_ssl"`
	SASLMechanism                      string `key:"sasl_mechanism" help:"PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"`
	SASLUsername                       string `key:"sasl_username" help:"user for SASL"`
	SASLPassword                       string `key:"sasl_password" help:"password for SASL" secret:"true"`
	SSLCALocation                      string `key:"ssl_ca_location" help:"file of PEM certificates to trust instead of the system's"`
	SSLCertificateLocation             string `key:"ssl_certificate_location" help:"file of the client's PEM certificate"`
	SSLKeyLocation                     string `key:"ssl_key_location" help:"file of the client's PEM key"`
	SSLEndpointIdentificationAlgorithm string `key:"ssl_endpoint_identification_algorithm" default:"https" help:"https checks the broker's host name; none does not, and then anybody with a trusted certificate can pose as a broker"`
}

// NATS says how to reach the NATS cluster that both tiers share.
type NATS struct {
	URL             string  `key:"url" default:"nats://127.0.0.1:4222" help:"NATS servers, URLs separated by commas; one may hold user:password@"`
	CredentialsFile string  `key:"credentials_file" help:"file with a NATS user's JWT and seed"`
	TLS             NATSTLS `key:"tls"`
}

// NATSTLS holds the files of a TLS connection to NATS.
type NATSTLS struct {
	CAFile   string `key:"ca_file" help:"file of PEM certificates to trust instead of the system's"`
	CertFile string `key:"cert_file" help:"file of the client's PEM certificate"`
	KeyFile  string `key:"key_file" help:"file of the client's PEM key"`
}

// OAuth names the OpenID issuers whose tokens sign users in.
type OAuth struct {
	IssuerURL string                 `key:"issuer_url" help:"OpenID issuer of clients that name none; its keys are found by discovery"`
	Clients   map[string]OAuthClient `key:"clients" help:"OpenID clients by number: OAUTH__CLIENTS__0__CLIENT_ID"`
}

// OAuthClient is one OpenID client: tokens must carry its id as audience.
type OAuthClient struct {
	ClientID  string `key:"client_id" help:"audience that a token must name"`
	IssuerURL string `key:"issuer_url" help:"issuer of this client, instead of OAUTH__ISSUER_URL; with several issuers the users and roles of all but that of the lowest number are written <N>/user"`
}

// Service is one of Drogue's HTTP services.
type Service struct {
	URL          string `key:"url" help:"base URL of the service"`
	ClientID     string `key:"client_id" help:"OAuth2 client for its calls"`
	ClientSecret string `key:"client_secret" help:"secret of that client" secret:"true"`
	IssuerURL    string `key:"issuer_url" help:"issuer that gives that client its tokens; empty means OAUTH__ISSUER_URL"`
}

// HTTP is the address that sockets are opened at.
type HTTP struct {
	BindAddr       string   `key:"bind_addr" default:"127.0.0.1:8080" help:"address of the WebSocket listener, host:port; other than loopback it needs a certificate or HTTP__DISABLE_TLS"`
	DisableTLS     bool     `key:"disable_tls" default:"false" help:"serve plain HTTP; right only behind a proxy that ends TLS, or on loopback"`
	CertBundleFile string   `key:"cert_bundle_file" help:"file of the PEM certificate chain, the edge's own first; read again when it changes"`
	KeyFile        string   `key:"key_file" help:"file of the PEM key of that certificate; read again when it changes"`
	CORS           CORS     `key:"cors"`
	TrustedProxies []string `key:"trusted_proxies" help:"CIDRs, separated by commas, whose X-Forwarded-For and -Proto are believed, read from the right; every address in them can pose as any client"`
	ProxyProtocol  bool     `key:"proxy_protocol" default:"false" help:"expect a PROXY protocol header, version 1 or 2, on every connection; with HTTP__TRUSTED_PROXIES only from there, without it from everybody, who can then pose as any client"`
}

// TLS says whether the listener ends TLS itself.
func (h HTTP) TLS() bool { return !h.DisableTLS && h.CertBundleFile != "" }

// CORS is Drogue's setting for browsers.
type CORS struct {
	Mode string `key:"mode" default:"disabled" help:"CORS of plain HTTP answers: disabled, or permissive: pages from everywhere may read why a socket was refused, without credentials"`
}

// Runtime is what every daemon has.
type Runtime struct {
	Health Health `key:"health"`
	Log    Log    `key:"log"`
}

// Health is the address of probes, metrics and profiles.
type Health struct {
	BindAddr   string   `key:"bind_addr" default:"127.0.0.1:9090" help:"address of /liveness, /readiness, /metrics and /debug, host:port; never the public one"`
	Hosts      []string `key:"hosts" help:"names by which it may be asked for, beside addresses and localhost, separated by commas: canopy-edge, or *.svc for all below svc; a name that somebody else controls lets web pages of his read what is there"`
	DebugToken string   `key:"debug_token" secret:"true" help:"what requests to /debug (profiles, groups, disconnect) must carry as Authorization: Bearer …, at least 16 characters, such as from openssl rand -hex 32; without it /debug is open to programs of this machine if RUNTIME__HEALTH__BIND_ADDR is loopback, and closed if not"`
}

// Log says what is logged and how.
type Log struct {
	Level  string `key:"level" default:"info" help:"debug, info, warn or error"`
	Format string `key:"format" default:"json" help:"json or console"`
}

// Edge holds what only the edge uses.
type Edge struct {
	ApplicationsFile string        `key:"applications_file" help:"YAML file of applications, members and API keys; or set USER_AUTH__URL"`
	AccessCache      time.Duration `key:"access_cache" default:"30s" help:"for how long an answer of Drogue's services holds; access that is withdrawn there ends within this time"`
	AccessStale      time.Duration `key:"access_stale" default:"5m" help:"for how long beyond that it counts while they do not answer; then sockets are refused and closed. 0s is off"`
	AllowedOrigins   []string      `key:"allowed_origins" help:"browser Origins such as https://console.example that may use Basic credentials, separated by commas; empty means the request's own Host"`
	CompressFrom     int64         `key:"compress_from" default:"0" unit:"bytes" help:"size from which on events are compressed for clients that offer permessage-deflate, such as 256: once for all that follow an application, without context takeover; 0 is off"`
	Limits           Limits        `key:"limits"`
	Ping             Ping          `key:"ping"`
	Buffers          Buffers       `key:"buffers"`
	Groups           Groups        `key:"groups"`
	Drain            time.Duration `key:"drain" default:"20s" help:"for how long sockets are closed, spread evenly, after SIGTERM"`
}

// Limits bound what clients may use. 0 means off, except for sizes.
type Limits struct {
	Connections               int   `key:"connections" default:"0" help:"sockets on this edge, beyond which it answers 503; 0 means the descriptor limit less 512"`
	ConnectionsPerApplication int   `key:"connections_per_application" default:"0" help:"sockets of one application on this edge, beyond which it answers 429; 0 is off"`
	ConnectionsPerUser        int   `key:"connections_per_user" default:"0" help:"sockets of one user on this edge, by token and by API key together, beyond which it answers 429; anonymous clients are not counted; 0 is off"`
	ConnectionsPerAddress     int   `key:"connections_per_address" default:"0" help:"sockets and requests of one client address (of IPv6: one /64) on this edge, beyond which it answers 429; behind a proxy it needs HTTP__TRUSTED_PROXIES or HTTP__PROXY_PROTOCOL, or all clients are one; 0 is off"`
	ConnectionsPerSecond      int   `key:"connections_per_second" default:"0" help:"requests for a socket a second on this edge, beyond which it answers 503; so many may come at once; of connections twice as many are let in, before TLS, and the others are closed; 0 is off"`
	HalfOpen                  int   `key:"half_open" default:"1024" help:"connections to this edge that are no socket yet, each of which may hold 110 KiB of memory; beyond it one that is silent for 2s is closed, or one of the address that has most, or the new one; 0 is off"`
	HalfOpenPerAddress        int   `key:"half_open_per_address" default:"64" help:"such connections from one address (of IPv6: one /64); beyond it the one that is silent for longest is closed, after 2s, or the new one; trusted proxies have as many as there are; 0 is off"`
	HandshakesPerSecond       int   `key:"handshakes_per_second" default:"0" help:"TLS handshakes that this edge answers in a second, on half of its cores at most; others wait for up to 8s; 0 means 500 for each core"`
	MessagesPerSecond         int   `key:"messages_per_second" default:"100" help:"frames that one client may send in a second, control frames among them and Pongs that answer a Ping not, a compressed message once more for each KiB; above it the socket is closed with 1008; 0 is off"`
	MessageBytes              int64 `key:"message_bytes" default:"64KiB" unit:"bytes" help:"largest message from a client; a larger one closes the socket with 1009"`
	HeaderBytes               int64 `key:"header_bytes" default:"32KiB" unit:"bytes" help:"largest request line and headers of a request for a socket, tokens among them; larger ones are answered with 431"`
	HeaderLines               int   `key:"header_lines" default:"100" help:"header lines of a request for a socket; more are answered with 431 while they come"`
	GroupsPerApplication      int   `key:"groups_per_application" default:"1000" help:"groups of one application, on all edges; those of its members are counted apart from those of public readers, who read it only because it is public, signed in or not; 0 is off"`
	NewGroupsPerAddress       int   `key:"new_groups_per_address" default:"10" help:"groups that one address may make on this edge without signing in: so many at once, and so many more in an hour, one by one; 0 is off"`
	NewGroupsPerUser          int   `key:"new_groups_per_user" default:"100" help:"groups that one user may make on this edge, by token and by API key together: so many at once, and so many more in an hour, one by one; all signed-in users of one address together may make as many as public readers; 0 is off"`
	ReplayEventsPerMinute     int   `key:"replay_events_per_minute" default:"1000000" help:"events that this edge reads from the log in a minute, a twentieth of them at once, for all sockets with since of one user, or of one address that has not signed in: each once more for each KiB, those of which a filter lets none pass four times, a question to the log as 8; beyond it those sockets wait; behind a proxy it needs HTTP__TRUSTED_PROXIES or HTTP__PROXY_PROTOCOL, or all who have not signed in are one; 0 is off"`
}

// Groups say how sockets that share a group_id split events.
type Groups struct {
	InFlight       int           `key:"in_flight" default:"1024" help:"events of one group that no member has acknowledged, on all edges"`
	MemberInFlight int           `key:"member_in_flight" default:"256" help:"events that one member has not acknowledged"`
	AckWait        time.Duration `key:"ack_wait" default:"20s" help:"time after which NATS gives an event of an edge that died to another one; at least 15s"`
	MaxDeliveries  int           `key:"max_deliveries" default:"5" help:"tries of an event alone, on all edges, that end with its member closed for an error, vanished or silent, before the group goes on without it; 0 tries it for ever"`
	Forget         time.Duration `key:"forget" default:"72h" help:"time without members after which NATS forgets a group and its place"`
	Replicas       int           `key:"replicas" default:"0" help:"copies of each group's place: 0 means as many as its stream has; 1 is for very many groups, which then pause for about 15s when their NATS node is away, and get again what was acknowledged in the last seconds before"`
}

// Ping says when a silent client is asked and when it is given up.
type Ping struct {
	Interval time.Duration `key:"interval" default:"25s" help:"silence after which a client is pinged, in whole seconds"`
	Timeout  time.Duration `key:"timeout" default:"20s" help:"silence after a Ping at which the client is dropped, in whole seconds"`
}

// Buffers bound the memory for events on their way, in bytes.
type Buffers struct {
	FeedAge     time.Duration `key:"feed_age" default:"60s" help:"how long a feed keeps an event for sockets that lag or resume"`
	FeedBytes   int64         `key:"feed_bytes" default:"16MiB" unit:"bytes" help:"bytes that one feed keeps for sockets that lag"`
	TotalBytes  int64         `key:"total_bytes" default:"512MiB" unit:"bytes" help:"bytes that all feeds of this edge keep"`
	RepairBytes int64         `key:"repair_bytes" default:"64MiB" unit:"bytes" help:"bytes of streams that are kept for feeds of this edge that miss the same events"`
	ReplayBytes int64         `key:"replay_bytes" default:"64MiB" unit:"bytes" help:"bytes of streams that are kept for sockets of this edge that resume behind the same places, each for EDGE__BUFFERS__FEED_AGE"`
	GroupBytes  int64         `key:"group_bytes" default:"256MiB" unit:"bytes" help:"bytes of events that groups of this edge hold until members acknowledge them; groups of public readers hold at most half"`
	NATSBytes   int64         `key:"nats_bytes" default:"32MiB" unit:"bytes" help:"bytes of one application's live events that wait in the NATS client until its feed takes them; what does not fit is dropped there and read from the stream"`
	SocketBytes int64         `key:"socket_bytes" default:"256MiB" unit:"bytes" help:"bytes that wait for stalled sockets of this edge; at three quarters of it those are closed that have taken nothing for a second, above it those that hold most for the longest time"`
}

// Ingest holds what only ingest uses.
type Ingest struct {
	Topics      []string      `key:"topics" default:"^(events|evt)-.*" help:"Kafka topics, separated by commas: names, or patterns that begin with ^; one behind a ! is not read, such as !^.*-dlt$; a comma inside brackets belongs to its pattern. Topics that are not named as the cloud names an application's let their writers choose the application"`
	Group       string        `key:"group" default:"canopy-ingest" help:"Kafka consumer group of all ingests"`
	Start       string        `key:"start" default:"earliest" help:"where a new consumer group starts: earliest or latest"`
	Application string        `key:"application" help:"application of records in other topics than applications' whose event names none; empty: such records are skipped"`
	Shards      int           `key:"shards" default:"64" help:"number of streams; changing it voids cursors and groups"`
	Replicas    int           `key:"replicas" default:"0" help:"copies of each stream: 1, 3 or 5; 0 means 3 in a NATS cluster and 1 on a single server"`
	Duplicates  time.Duration `key:"duplicates" default:"2m" help:"window in which NATS recognises a record that was published twice"`
	Consumers   int           `key:"consumers" default:"100000" help:"groups that one stream may hold; public readers have at most half of them"`
	Retention   Retention     `key:"retention"`
	Window      Window        `key:"window"`

	SessionTimeout time.Duration `key:"session_timeout" default:"6s" help:"silence after which Kafka gives a dead ingest's partitions to others; no less than group.min.session.timeout.ms of the brokers"`
}

// Retention bounds the log that groups and reconnecting clients read from.
type Retention struct {
	Age                  time.Duration `key:"age" default:"24h" help:"how long NATS keeps an event"`
	Bytes                int64         `key:"bytes" default:"10GiB" unit:"bytes" help:"bytes that all streams together may hold on each of their nodes"`
	EventsPerApplication int64         `key:"events_per_application" default:"1000000" help:"events kept of one application; it evicts only its own past"`
	Share                int           `key:"share" default:"25" help:"percent of its stream that one application may hold: a noisy one evicts its own oldest events, not others'; 100 is no bound"`
}

// Window bounds the records that ingest has read and NATS has not acknowledged.
type Window struct {
	Records int   `key:"records" default:"16384" help:"records between Kafka and NATS"`
	Bytes   int64 `key:"bytes" default:"64MiB" unit:"bytes" help:"bytes of records between Kafka and NATS"`
}
