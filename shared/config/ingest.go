package config

import (
	"regexp"
	"slices"
	"strings"
	"time"
)

const maxShards = 1024

// topicName is what Kafka allows as a topic's name.
var topicName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// ValidateIngest reports everything that keeps an ingest from starting with cfg, as a
// Problems. Settings of the edge are not looked at.
func (cfg Config) ValidateIngest() error {
	c := newCheck(cfg)
	c.common(cfg)
	c.kafka(cfg.Kafka)
	c.ingest(cfg.Ingest)
	c.retention(cfg.Ingest)
	return c.problems.orNil()
}

func (c *check) kafka(k Kafka) {
	const servers = "KAFKA__BOOTSTRAP_SERVERS"
	c.that(len(k.BootstrapServers) > 0, servers, "expected brokers, host:port, separated by commas")
	for _, broker := range k.BootstrapServers {
		host, _, _ := strings.Cut(broker, ":")
		c.that(isAddress(broker, 1) && host != "", servers, "expected host:port for "+setting{}.show(broker))
	}
	const prefix = "KAFKA__PROPERTIES__"
	p := k.Properties
	c.oneOf(prefix+"SECURITY_PROTOCOL", p.SecurityProtocol, "plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
	if strings.HasPrefix(p.SecurityProtocol, "sasl_") {
		c.oneOf(prefix+"SASL_MECHANISM", p.SASLMechanism, "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
		c.that(p.SASLUsername != "", prefix+"SASL_USERNAME", "expected a user for SASL")
		c.that(p.SASLPassword != "", prefix+"SASL_PASSWORD", "expected a password for SASL")
	} else {
		c.that(p.SASLMechanism == "", prefix+"SASL_MECHANISM", "has no effect without sasl_ssl or sasl_plaintext as SECURITY_PROTOCOL")
	}
	if !strings.HasSuffix(p.SecurityProtocol, "ssl") {
		const plain = "has no effect without ssl or sasl_ssl as SECURITY_PROTOCOL: the connection would not be encrypted"
		c.that(p.SSLCALocation == "", prefix+"SSL_CA_LOCATION", plain)
		c.that(p.SSLCertificateLocation == "", prefix+"SSL_CERTIFICATE_LOCATION", plain)
	}
	c.pair(prefix+"SSL_CERTIFICATE_LOCATION", p.SSLCertificateLocation, prefix+"SSL_KEY_LOCATION", p.SSLKeyLocation)
	c.oneOf(prefix+"SSL_ENDPOINT_IDENTIFICATION_ALGORITHM", p.SSLEndpointIdentificationAlgorithm, "https", "none")
}

func (c *check) ingest(i Ingest) {
	c.topics(i.Topics)
	c.that(i.Group != "", "INGEST__GROUP", "expected a consumer group")
	c.oneOf("INGEST__START", i.Start, "earliest", "latest")
	c.duration("INGEST__SESSION_TIMEOUT", i.SessionTimeout, time.Second)
	c.that(i.Shards >= 1 && i.Shards <= maxShards, "INGEST__SHARDS", "expected 1 to 1024")
	c.that(slices.Contains([]int{0, 1, 3, 5}, i.Replicas), "INGEST__REPLICAS", "expected 0, 1, 3 or 5")
	c.atLeast("INGEST__CONSUMERS", int64(i.Consumers), 1, "1")
	c.atLeast("INGEST__WINDOW__RECORDS", int64(i.Window.Records), 1, "1")
	c.atLeast("INGEST__WINDOW__BYTES", i.Window.Bytes, mebibyte, "1MiB")
}

func (c *check) topics(topics []string) {
	const name = "INGEST__TOPICS"
	taken := 0
	for _, topic := range topics {
		pattern, left := strings.CutPrefix(topic, "!")
		if !left {
			taken++
		}
		if strings.HasPrefix(pattern, "^") {
			_, err := regexp.Compile(pattern)
			c.that(err == nil, name, "expected a pattern (RE2) instead of "+setting{}.show(pattern))
		} else {
			c.that(topicName.MatchString(pattern), name,
				"expected a topic's name, or a pattern that begins with ^, instead of "+setting{}.show(pattern))
		}
	}
	c.that(taken > 0, name, "expected topics, separated by commas")
}

func (c *check) retention(i Ingest) {
	c.duration("INGEST__RETENTION__AGE", i.Retention.Age, time.Second)
	c.duration("INGEST__DUPLICATES", i.Duplicates, 100*time.Millisecond) // NATS takes no less
	c.that(i.Duplicates <= i.Retention.Age, "INGEST__DUPLICATES", "expected at most INGEST__RETENTION__AGE")
	c.that(i.Shards < 1 || i.Retention.Bytes/int64(i.Shards) >= mebibyte, "INGEST__RETENTION__BYTES",
		"expected at least 1MiB for each of INGEST__SHARDS")
	c.atLeast("INGEST__RETENTION__EVENTS_PER_APPLICATION", i.Retention.EventsPerApplication, 1, "1")
	c.that(i.Retention.Share >= 1 && i.Retention.Share <= 100, "INGEST__RETENTION__SHARE", "expected 1 to 100 percent")
}
