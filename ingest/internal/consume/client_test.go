package consume

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"canopy/shared/config"
)

func TestNamesBecomePatternsBesidePatterns(t *testing.T) {
	for _, c := range []struct {
		topics  []string
		list    string
		isRegex bool
	}{
		{[]string{"a.b", "c"}, "[a.b c]", false},
		{[]string{"^(events|evt)-.*"}, "[^(events|evt)-.*]", true},
		{[]string{"a.b", "^x-.*$"}, `[^a\.b$ ^x-.*$]`, true},
	} {
		list, isRegex, err := topicPatterns(c.topics)
		if err != nil || fmt.Sprint(list) != c.list || isRegex != c.isRegex {
			t.Errorf("%v: %v %v %v", c.topics, list, isRegex, err)
		}
	}
	for _, bad := range [][]string{nil, {"^("}} {
		if _, _, err := topicPatterns(bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}

func TestMatcherTakesWholeNamesAndPatterns(t *testing.T) {
	match, err := topicMatcher([]string{"one", "^evt-.*"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"one": true, "one2": false, "evt-x": true, "an-evt-x": false} {
		if match(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}

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
