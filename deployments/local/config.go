package local

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"canopy/shared/config"
)

// The parts of the stack, in the order in which they start.
const (
	NATS    = "nats"
	Kafka   = "kafka"
	Issuer  = "issuer"
	Ingest  = "ingest"
	Edge    = "edge"
	Sensors = "sensors"
)

// Parts are all parts, in the order in which they start.
var Parts = []string{NATS, Kafka, Issuer, Ingest, Edge, Sensors}

const (
	prefix        = "LOCAL__"
	anyPort       = "127.0.0.1:0"
	clientID      = "canopy"
	defaultNATS   = "127.0.0.1:4222"
	defaultKafka  = "127.0.0.1:9092"
	defaultIssuer = "127.0.0.1:8081"
)

// Help describes the settings of the stack itself, for --help.
const Help = `Everything on this machine, in one process: NATS, Kafka, an OpenID issuer, both
tiers and simulated sensors. For trying things out and for tests, never for
production.

Settings of the stack itself are environment variables, too:

  LOCAL__RUN          parts that run here, separated by commas; by default
                      kafka,nats,issuer,ingest,edge,sensors. Those left out
                      are expected at their addresses
  LOCAL__KAFKA_ADDR   Kafka, by default 127.0.0.1:9092
  LOCAL__NATS_ADDR    NATS, by default 127.0.0.1:4222
  LOCAL__ISSUER_ADDR  the OpenID issuer, by default 127.0.0.1:8081
  LOCAL__ISSUER_URL   how the issuer names itself, by default http:// and its
                      address
  LOCAL__INGEST_HEALTH_ADDR
                      health of ingest when the edge runs beside it, by default
                      any free port: RUNTIME__HEALTH__BIND_ADDR is the edge's
  LOCAL__HEALTH_ADDR  health of this process as a whole, which the command
                      health asks, by default none
  LOCAL__DATA_DIR     folder that keeps everything over a restart, by default a
                      temporary one

Without --config some settings have other defaults here: INGEST__SHARDS=4,
INGEST__REPLICAS=1, INGEST__RETENTION__BYTES=1GiB, EDGE__DRAIN=500ms,
RUNTIME__LOG__LEVEL=warn and RUNTIME__LOG__FORMAT=console. The addresses of
NATS, Kafka and the issuer, the OpenID client (canopy) and the applications
file follow from the stack unless they are set.`

// ownDefaults are those of the stack: quick to start and to stop, small on the disk, and
// with a log that leaves the commands to try in sight.
var ownDefaults = []string{
	"INGEST__SHARDS=4",
	"INGEST__REPLICAS=1",
	"INGEST__RETENTION__BYTES=1GiB",
	"EDGE__DRAIN=500ms",
	"RUNTIME__LOG__LEVEL=warn",
	"RUNTIME__LOG__FORMAT=console",
}

// Config is what the stack is started with.
type Config struct {
	// Run names the parts that run in this process, in any order.
	Run []string

	// Addresses, host:port, of parts that run here or elsewhere. Port 0 of a part that
	// runs here means a free one.
	KafkaAddr, NATSAddr, IssuerAddr string

	// IssuerURL is how the issuer names itself; "" means http:// and its address.
	IssuerURL string

	// IngestHealthAddr is the health address of ingest when the edge runs beside it.
	IngestHealthAddr string

	// HealthAddr is where the process says how it is; "" means nowhere.
	HealthAddr string

	// DataDir keeps what is stored; "" means a temporary folder, removed at the end.
	DataDir string

	// Settings are those of the tiers. What is empty (and the default of NATS.URL) is
	// filled in with what the stack starts.
	Settings config.Config
}

// runs says whether part runs in this process.
func (c Config) runs(part string) bool { return slices.Contains(c.Run, part) }

// Load reads the stack's configuration from the environment ("NAME=value" each) and from
// the file at path ("" for none). Its error is a config.Problems and lists every problem.
func Load(path string, environ []string) (Config, error) {
	cfg, own := fromEnviron(environ)
	if path == "" {
		// Defaults come first: of a name that is given twice the last one counts.
		environ = slices.Concat(ownDefaults, environ)
	}
	settings, err := config.Read(path, environ)
	cfg.Settings = settings
	return cfg, config.Join(own, err, cfg.validate())
}

// fromEnviron reads the names that begin with LOCAL__.
func fromEnviron(environ []string) (Config, error) {
	cfg := Config{
		Run:              Parts,
		KafkaAddr:        defaultKafka,
		NATSAddr:         defaultNATS,
		IssuerAddr:       defaultIssuer,
		IngestHealthAddr: anyPort,
	}
	var problems config.Problems
	targets := map[string]*string{
		"LOCAL__KAFKA_ADDR":         &cfg.KafkaAddr,
		"LOCAL__NATS_ADDR":          &cfg.NATSAddr,
		"LOCAL__ISSUER_ADDR":        &cfg.IssuerAddr,
		"LOCAL__ISSUER_URL":         &cfg.IssuerURL,
		"LOCAL__INGEST_HEALTH_ADDR": &cfg.IngestHealthAddr,
		"LOCAL__HEALTH_ADDR":        &cfg.HealthAddr,
		"LOCAL__DATA_DIR":           &cfg.DataDir,
	}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		switch target, known := targets[name]; {
		case known:
			*target = value
		case name == "LOCAL__RUN":
			cfg.Run = parseParts(value, &problems)
		case strings.HasPrefix(name, prefix):
			problems = append(problems, name+": unknown setting of the local stack (see canopy-local --help)")
		}
	}
	for _, name := range []string{"LOCAL__KAFKA_ADDR", "LOCAL__NATS_ADDR", "LOCAL__ISSUER_ADDR", "LOCAL__INGEST_HEALTH_ADDR"} {
		if _, _, err := splitAddr(*targets[name]); err != nil {
			problems = append(problems, fmt.Sprintf("%s=%s: %v", name, *targets[name], err))
		}
	}
	if _, _, err := splitAddr(cfg.HealthAddr); cfg.HealthAddr != "" && err != nil {
		problems = append(problems, fmt.Sprintf("LOCAL__HEALTH_ADDR=%s: %v", cfg.HealthAddr, err))
	}
	if cfg.IssuerURL != "" && !strings.HasPrefix(cfg.IssuerURL, "http://") {
		problems = append(problems, "LOCAL__ISSUER_URL="+cfg.IssuerURL+": expected an http URL")
	}
	if len(problems) == 0 {
		return cfg, nil
	}
	return cfg, problems
}

func parseParts(list string, problems *config.Problems) []string {
	var parts []string
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		if !slices.Contains(Parts, part) {
			*problems = append(*problems, fmt.Sprintf("LOCAL__RUN: unknown part %q; there are %s", part, strings.Join(Parts, ", ")))
			continue
		}
		parts = append(parts, part)
	}
	return parts
}

// splitAddr reads host:port with a numeric port, 0 allowed.
func splitAddr(addr string) (host string, port int, err error) {
	host, digits, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, errors.New("expected host:port")
	}
	port, err = net.LookupPort("tcp", digits)
	if err != nil || host == "" {
		return "", 0, errors.New("expected host:port")
	}
	return host, port, nil
}

// validate checks the settings of the tiers that run here, as they will be.
func (c Config) validate() error {
	placeholder := func(addr string) string {
		if host, ok := strings.CutSuffix(addr, ":0"); ok {
			return host + ":1"
		}
		return addr
	}
	settings := c.fill(Addrs{
		Kafka:        placeholder(c.KafkaAddr),
		NATS:         placeholder(c.NATSAddr),
		Issuer:       c.issuerURL(),
		Applications: "applications.yaml",
	})
	var errs []error
	if c.runs(Ingest) {
		errs = append(errs, settings.ValidateIngest())
	}
	if c.runs(Edge) {
		errs = append(errs, settings.ValidateEdge())
	}
	if p := settings.Kafka.Properties.SecurityProtocol; c.runs(Sensors) && p != "plaintext" {
		errs = append(errs, errors.New("KAFKA__PROPERTIES__SECURITY_PROTOCOL="+p+": the simulated sensors send in plaintext only; leave them out by LOCAL__RUN"))
	}
	return config.Join(errs...)
}

// fill gives the tiers' settings, with the addresses in at where nothing else is set.
func (c Config) fill(at Addrs) config.Config {
	s := c.Settings
	if s.NATS.URL == "" || s.NATS.URL == "nats://"+defaultNATS {
		s.NATS.URL = (&url.URL{Scheme: "nats", Host: at.NATS}).String()
	}
	if len(s.Kafka.BootstrapServers) == 0 {
		s.Kafka.BootstrapServers = []string{at.Kafka}
	}
	if s.OAuth.IssuerURL == "" && len(s.OAuth.Clients) == 0 {
		s.OAuth.IssuerURL = at.Issuer
		s.OAuth.Clients = map[string]config.OAuthClient{"0": {ClientID: clientID}}
	}
	if s.Edge.ApplicationsFile == "" && s.UserAuth.URL == "" {
		s.Edge.ApplicationsFile = at.Applications
	}
	return s
}
