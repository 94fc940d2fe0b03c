package consume

import (
	"crypto/tls"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"canopy/shared/config"
)

func TestSecurityIsWhatLibrdkafkasPropertiesSay(t *testing.T) {
	for _, c := range []struct {
		protocol, mechanism string
		tls, sasl, bad      bool
	}{
		{"", "", false, false, false},
		{"plaintext", "PLAIN", false, false, false},
		{"SASL_PLAINTEXT", "plain", false, true, false},
		{"ssl", "", true, false, false},
		{"sasl_ssl", "SCRAM-SHA-256", true, true, false},
		{"sasl_ssl", "SCRAM-SHA-512", true, true, false},
		{"sasl_ssl", "GSSAPI", false, false, true},
		{"tls", "", false, false, true},
	} {
		opts, err := securityOptions(config.KafkaProperties{SecurityProtocol: c.protocol, SASLMechanism: c.mechanism, SASLUsername: "u", SASLPassword: "p"})
		if (err != nil) != c.bad {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		if err != nil {
			continue
		}
		client, err := kgo.NewClient(opts...)
		if err != nil {
			t.Fatal(err)
		}
		if hasTLS := client.OptValue(kgo.DialTLSConfig).(*tls.Config) != nil; hasTLS != c.tls {
			t.Errorf("%+v: TLS %v", c, hasTLS)
		}
		if has := len(client.OptValue(kgo.SASL).([]sasl.Mechanism)) > 0; has != c.sasl {
			t.Errorf("%+v: SASL %v", c, has)
		}
		client.Close()
	}
}

func TestWithoutHostNameTheChainIsStillChecked(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	dial := func(p config.KafkaProperties) error {
		c, err := tlsConfig(p)
		if err != nil {
			t.Fatal(err)
		}
		c.ServerName = "another.test"
		conn, err := tls.Dial("tcp", srv.Listener.Addr().String(), c)
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	if err := dial(config.KafkaProperties{SSLCALocation: ca, SSLEndpointIdentificationAlgorithm: "none"}); err != nil {
		t.Errorf("trusted chain, name not asked for: %v", err)
	}
	if err := dial(config.KafkaProperties{SSLCALocation: ca, SSLEndpointIdentificationAlgorithm: "https"}); err == nil {
		t.Error("a wrong name was taken")
	}
	if err := dial(config.KafkaProperties{SSLEndpointIdentificationAlgorithm: "none"}); err == nil {
		t.Error("an unknown chain was taken")
	}
}
