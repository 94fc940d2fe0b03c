package consume

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"canopy/shared/config"
)

const (
	// A new topic is seen after metadataAge, and then read after fetchWait at most.
	metadataAge = 4 * time.Second
	fetchWait   = 500 * time.Millisecond

	// One fetch per broker is buffered, compressed; a batch in it may grow this large.
	fetchBytes          = 8 << 20
	fetchPartitionBytes = 1 << 20
	decompressedBytes   = 128 << 20

	rebalanceTimeout = 60 * time.Second

	// heartbeats is how many fit into the session's time-out.
	heartbeats = 4
)

// connectionOptions says where Kafka is and how to sign in. Its errors are mistakes in cfg.
func connectionOptions(cfg config.Kafka) ([]kgo.Opt, error) {
	security, err := securityOptions(cfg.Properties)
	if err != nil {
		return nil, err
	}
	return append(security,
		kgo.SeedBrokers(cfg.BootstrapServers...),
		kgo.ClientID("canopy-ingest"),
		kgo.MetadataMaxAge(metadataAge),
		kgo.MetadataMinAge(250*time.Millisecond),
	), nil
}

// groupOptions says what is read and how. Its errors are mistakes in cfg.
func groupOptions(cfg config.Ingest) ([]kgo.Opt, error) {
	topics, err := chooseTopics(cfg.Topics)
	if err != nil {
		return nil, err
	}
	opts := []kgo.Opt{
		kgo.ConsumerGroup(cfg.Group),
		kgo.ConsumeTopics(topics.taken...),
		kgo.DisableAutoCommit(),
		kgo.KeepRetryableFetchErrors(), // UNKNOWN_TOPIC_ID would be kept back for 12 s
		kgo.BlockRebalanceOnPoll(),
		// What has no committed offset is read from its start: that is what a topic
		// made later needs. A group that starts at the end has offsets by then.
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxBytes(fetchBytes),
		kgo.FetchMaxPartitionBytes(fetchPartitionBytes),
		kgo.FetchMaxWait(fetchWait),
		kgo.MaxConcurrentFetches(1),
		kgo.MaxDecompressBatchBytes(decompressedBytes),
		// Not the groups of KIP-848 (kgo.ServerSideBalancer): there the brokers alone say
		// when a member is dead, after 45 s unless told otherwise, and its partitions wait
		// for that even if a new member has come.
		kgo.SessionTimeout(cfg.SessionTimeout),
		kgo.HeartbeatInterval(cfg.SessionTimeout / heartbeats),
		kgo.RebalanceTimeout(rebalanceTimeout),
	}
	if topics.isRegex {
		opts = append(opts, kgo.ConsumeRegex(), kgo.ConsumeExcludeTopics(topics.left...))
	}
	return opts, nil
}

func securityOptions(p config.KafkaProperties) ([]kgo.Opt, error) {
	protocol := strings.ToLower(p.SecurityProtocol)
	var opts []kgo.Opt
	switch protocol {
	case "", "plaintext", "sasl_plaintext":
	case "ssl", "sasl_ssl":
		t, err := tlsConfig(p)
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.DialTLSConfig(t))
	default:
		return nil, fmt.Errorf("read Kafka security protocol: %q is unknown", p.SecurityProtocol)
	}
	if !strings.HasPrefix(protocol, "sasl_") {
		return opts, nil
	}
	switch strings.ToUpper(p.SASLMechanism) {
	case "PLAIN":
		return append(opts, kgo.SASL(plain.Auth{User: p.SASLUsername, Pass: p.SASLPassword}.AsMechanism())), nil
	case "SCRAM-SHA-256":
		return append(opts, kgo.SASL(scram.Auth{User: p.SASLUsername, Pass: p.SASLPassword}.AsSha256Mechanism())), nil
	case "SCRAM-SHA-512":
		return append(opts, kgo.SASL(scram.Auth{User: p.SASLUsername, Pass: p.SASLPassword}.AsSha512Mechanism())), nil
	}
	return nil, fmt.Errorf("read Kafka SASL mechanism: %q is unknown", p.SASLMechanism)
}

func tlsConfig(p config.KafkaProperties) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if p.SSLCALocation != "" {
		pem, err := os.ReadFile(p.SSLCALocation)
		if err != nil {
			return nil, fmt.Errorf("read Kafka CA: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read Kafka CA: no certificate in %s", p.SSLCALocation)
		}
	}
	if p.SSLCertificateLocation != "" || p.SSLKeyLocation != "" {
		pair, err := tls.LoadX509KeyPair(p.SSLCertificateLocation, p.SSLKeyLocation)
		if err != nil {
			return nil, fmt.Errorf("read Kafka client certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	if strings.EqualFold(p.SSLEndpointIdentificationAlgorithm, "none") {
		skipHostName(t)
	}
	return t, nil
}

// skipHostName checks the broker's chain of certificates, but not its name, which is what
// librdkafka does for "none".
func skipHostName(t *tls.Config) {
	t.InsecureSkipVerify = true // VerifyConnection does the rest
	t.VerifyConnection = func(s tls.ConnectionState) error {
		o := x509.VerifyOptions{Roots: t.RootCAs, Intermediates: x509.NewCertPool()}
		for _, c := range s.PeerCertificates[1:] {
			o.Intermediates.AddCert(c)
		}
		_, err := s.PeerCertificates[0].Verify(o)
		return err
	}
}
