package config

import (
	"bytes"
	"strings"
	"testing"
)

// TestEverySettingThatOperatorsKnowIsOne looks up the names that operators of Drogue Cloud
// and of Canopy were promised.
func TestEverySettingThatOperatorsKnowIsOne(t *testing.T) {
	for name := range strings.FieldsSeq(`
		KAFKA__BOOTSTRAP_SERVERS KAFKA__PROPERTIES__SECURITY_PROTOCOL KAFKA__PROPERTIES__SASL_MECHANISM
		KAFKA__PROPERTIES__SASL_USERNAME KAFKA__PROPERTIES__SASL_PASSWORD KAFKA__PROPERTIES__SSL_CA_LOCATION
		NATS__URL NATS__CREDENTIALS_FILE NATS__TLS__CA_FILE NATS__TLS__CERT_FILE NATS__TLS__KEY_FILE
		OAUTH__ISSUER_URL OAUTH__CLIENTS__0__CLIENT_ID OAUTH__CLIENTS__12__ISSUER_URL
		USER_AUTH__URL USER_AUTH__CLIENT_ID USER_AUTH__CLIENT_SECRET USER_AUTH__ISSUER_URL
		REGISTRY__URL REGISTRY__CLIENT_ID REGISTRY__CLIENT_SECRET REGISTRY__ISSUER_URL
		HTTP__BIND_ADDR HTTP__DISABLE_TLS HTTP__CERT_BUNDLE_FILE HTTP__KEY_FILE HTTP__CORS__MODE
		HTTP__TRUSTED_PROXIES HTTP__PROXY_PROTOCOL
		RUNTIME__HEALTH__BIND_ADDR RUNTIME__LOG__LEVEL RUNTIME__LOG__FORMAT
		EDGE__APPLICATIONS_FILE EDGE__ACCESS_CACHE EDGE__ALLOWED_ORIGINS EDGE__PING__INTERVAL EDGE__PING__TIMEOUT
		EDGE__LIMITS__CONNECTIONS EDGE__LIMITS__CONNECTIONS_PER_APPLICATION EDGE__LIMITS__CONNECTIONS_PER_USER
		EDGE__LIMITS__CONNECTIONS_PER_ADDRESS EDGE__LIMITS__CONNECTIONS_PER_SECOND
		INGEST__TOPICS INGEST__START INGEST__SHARDS INGEST__RETENTION__AGE INGEST__RETENTION__BYTES
		INGEST__RETENTION__EVENTS_PER_APPLICATION`) {
		if _, ok := lookup(name); !ok {
			t.Errorf("%s is no setting", name)
		}
	}
}

func TestHelpShowsEverySettingWithItsKindAndDefault(t *testing.T) {
	var out bytes.Buffer
	if err := writeHelp(&out); err != nil {
		t.Fatal(err)
	}
	for _, s := range settings {
		if line := "\n  " + s.name + "  (" + s.describe() + ")\n      "; s.help == "" || !strings.Contains(out.String(), line) {
			t.Errorf("--help does not tell of %s", s.name)
		}
	}
}
