package config

import (
	"strings"
	"testing"
)

func edgeConfig(t *testing.T, environ ...string) Config {
	t.Helper()
	return read(t, append([]string{"EDGE__APPLICATIONS_FILE=apps.yaml"}, environ...))
}

func ingestConfig(t *testing.T, environ ...string) Config {
	t.Helper()
	return read(t, append([]string{"KAFKA__BOOTSTRAP_SERVERS=127.0.0.1:9092"}, environ...))
}

func read(t *testing.T, environ []string) Config {
	t.Helper()
	cfg, err := Read("", environ)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestEdgeStartsWithTheCommandLineOfTheLocalStack(t *testing.T) {
	cfg := edgeConfig(t, "HTTP__BIND_ADDR=127.0.0.1:8180", "RUNTIME__HEALTH__BIND_ADDR=127.0.0.1:9190",
		"NATS__URL=nats://127.0.0.1:4222", "OAUTH__ISSUER_URL=http://127.0.0.1:8081", "OAUTH__CLIENTS__0__CLIENT_ID=canopy")
	if err := cfg.ValidateEdge(); err != nil {
		t.Error(err)
	}
}

func TestIngestStartsWithTheCommandLineOfTheLocalStack(t *testing.T) {
	if err := ingestConfig(t, "NATS__URL=nats://127.0.0.1:4222").ValidateIngest(); err != nil {
		t.Error(err)
	}
}

func TestATierOverlooksTheSettingsOfTheOther(t *testing.T) {
	if err := edgeConfig(t, "INGEST__SHARDS=0", "KAFKA__BOOTSTRAP_SERVERS=x", "INGEST__TOPICS=^(").ValidateEdge(); err != nil {
		t.Error(err)
	}
	err := ingestConfig(t, "HTTP__BIND_ADDR=x", "EDGE__DRAIN=0s", "USER_AUTH__URL=http://x", "OAUTH__ISSUER_URL=x",
		"HTTP__PROXY_PROTOCOL=true", "REGISTRY__URL=http://x").ValidateIngest()
	if err != nil {
		t.Error(err)
	}
}

func TestValidateEdgeSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		environ string
		want    []string
	}{
		{"HTTP__BIND_ADDR=0.0.0.0:80 HTTP__DISABLE_TLS=true", nil},
		{"HTTP__BIND_ADDR=localhost:0", nil},
		{"HTTP__BIND_ADDR=[::1]:80", nil},
		{"HTTP__BIND_ADDR=0.0.0.0:80", []string{"expected HTTP__CERT_BUNDLE_FILE and HTTP__KEY_FILE, or HTTP__DISABLE_TLS=true"}},
		{"HTTP__BIND_ADDR=:80", []string{"expected HTTP__CERT_BUNDLE_FILE and HTTP__KEY_FILE, or HTTP__DISABLE_TLS=true"}},
		{"HTTP__BIND_ADDR=edge.example:80", []string{"expected HTTP__CERT_BUNDLE_FILE and HTTP__KEY_FILE, or HTTP__DISABLE_TLS=true"}},
		{"HTTP__BIND_ADDR=127.0.0.1", []string{"expected host:port"}},
		{"HTTP__BIND_ADDR=127.0.0.1:http", []string{"expected host:port"}},
		{"HTTP__BIND_ADDR=127.0.0.1:65536", []string{"expected host:port"}},
		{"HTTP__BIND_ADDR=0.0.0.0:80 HTTP__CERT_BUNDLE_FILE=a HTTP__KEY_FILE=b", nil},
		{"HTTP__CERT_BUNDLE_FILE=a HTTP__KEY_FILE=b HTTP__DISABLE_TLS=true", []string{"HTTP__CERT_BUNDLE_FILE=\"a\": has no effect"}},
		{"HTTP__CERT_BUNDLE_FILE=a", []string{"HTTP__KEY_FILE=\"\": expected a file"}},
		{"HTTP__KEY_FILE=a", []string{"HTTP__CERT_BUNDLE_FILE=\"\": expected a file"}},
		{"EDGE__APPLICATIONS_FILE=", []string{"EDGE__APPLICATIONS_FILE"}},
		{"HTTP__CORS__MODE=permissive HTTP__TRUSTED_PROXIES=10.0.0.0/8,::1 HTTP__PROXY_PROTOCOL=true", nil},
		{"HTTP__CORS__MODE=all HTTP__TRUSTED_PROXIES=proxy", []string{"expected disabled or permissive", "expected CIDRs"}},
		{"EDGE__ALLOWED_ORIGINS=https://a,http://b:1", nil},
		{"EDGE__ALLOWED_ORIGINS=https://a,*", []string{"expected Origins"}},
		{"EDGE__LIMITS__CONNECTIONS_PER_APPLICATION=1 EDGE__LIMITS__CONNECTIONS_PER_USER=1 EDGE__LIMITS__CONNECTIONS_PER_ADDRESS=1 " +
			"EDGE__LIMITS__CONNECTIONS_PER_SECOND=1 EDGE__LIMITS__MESSAGES_PER_SECOND=0", nil},
		{"EDGE__LIMITS__CONNECTIONS_PER_APPLICATION=-1 EDGE__LIMITS__CONNECTIONS_PER_USER=-1 EDGE__LIMITS__CONNECTIONS_PER_ADDRESS=-1 " +
			"EDGE__LIMITS__CONNECTIONS_PER_SECOND=-1 EDGE__LIMITS__MESSAGES_PER_SECOND=-1",
			[]string{"PER_APPLICATION", "PER_USER", "PER_ADDRESS", "CONNECTIONS_PER_SECOND", "MESSAGES_PER_SECOND"}},
		{"EDGE__COMPRESS_FROM=256", nil},
		{"EDGE__COMPRESS_FROM=-1", []string{"EDGE__COMPRESS_FROM=\"-1\": expected at least 0"}},
		{"EDGE__COMPRESS_FROM=17MiB", []string{"expected at most 16MiB"}},
		{"EDGE__LIMITS__REPLAY_EVENTS_PER_MINUTE=0", nil},
		{"EDGE__LIMITS__REPLAY_EVENTS_PER_MINUTE=10000", nil},
		{"EDGE__LIMITS__REPLAY_EVENTS_PER_MINUTE=9999", []string{"expected 0, or 10000 to 1000000000"}},
		{"EDGE__LIMITS__REPLAY_EVENTS_PER_MINUTE=1000000001", []string{"expected 0, or 10000 to 1000000000"}},
		{"EDGE__LIMITS__REPLAY_EVENTS_PER_MINUTE=-1", []string{"expected 0, or 10000 to 1000000000"}},
		{"EDGE__LIMITS__MESSAGE_BYTES=1KiB EDGE__LIMITS__HEADER_BYTES=2MiB", []string{"expected 8KiB to 16MiB", "expected 8KiB to 1MiB"}},
		{"USER_AUTH__URL=http://x", []string{"expected one source of access", "USER_AUTH__CLIENT_ID=", "USER_AUTH__CLIENT_SECRET=(hidden)", "USER_AUTH__ISSUER_URL="}},
		{"EDGE__APPLICATIONS_FILE= USER_AUTH__URL=http://x USER_AUTH__CLIENT_ID=c USER_AUTH__CLIENT_SECRET=s USER_AUTH__ISSUER_URL=http://i", nil},
		{"EDGE__APPLICATIONS_FILE= USER_AUTH__URL=http://x USER_AUTH__CLIENT_ID=c USER_AUTH__CLIENT_SECRET=s OAUTH__ISSUER_URL=http://i OAUTH__CLIENTS__0__CLIENT_ID=c " +
			"REGISTRY__URL=http://y REGISTRY__CLIENT_ID=c REGISTRY__CLIENT_SECRET=s", nil},
		{"EDGE__APPLICATIONS_FILE= USER_AUTH__URL=x USER_AUTH__CLIENT_ID=c USER_AUTH__CLIENT_SECRET=s USER_AUTH__ISSUER_URL=i",
			[]string{"USER_AUTH__URL=\"x\": expected an http", "USER_AUTH__ISSUER_URL=\"i\": expected an http"}},
		{"EDGE__APPLICATIONS_FILE= USER_AUTH__URL=http://me:pass@x USER_AUTH__CLIENT_ID=c USER_AUTH__CLIENT_SECRET=s USER_AUTH__ISSUER_URL=http://i",
			[]string{"USER_AUTH__URL: expected no user in the URL: the service is asked with tokens"}},
		{"EDGE__APPLICATIONS_FILE= USER_AUTH__URL=http://x/?key=sesame USER_AUTH__CLIENT_ID=c USER_AUTH__CLIENT_SECRET=s USER_AUTH__ISSUER_URL=http://me:pass@i",
			[]string{"USER_AUTH__URL: expected no query", "USER_AUTH__ISSUER_URL: expected no user"}},
		{"EDGE__APPLICATIONS_FILE= USER_AUTH__URL=ftp://x/?key=sesame USER_AUTH__CLIENT_ID=c USER_AUTH__CLIENT_SECRET=s USER_AUTH__ISSUER_URL=http://i",
			[]string{"USER_AUTH__URL=\"ftp://x/?xxxxx\": expected an http", "USER_AUTH__URL: expected no query"}},
		{"HTTP__TRUSTED_PROXIES=10.0.0.0/8,0.0.0.0/0", []string{"not all that there are"}},
		{"HTTP__TRUSTED_PROXIES=::/0", []string{"not all that there are"}},
		{"OAUTH__ISSUER_URL=https://me@x OAUTH__CLIENTS__0__CLIENT_ID=c OAUTH__CLIENTS__0__ISSUER_URL=https://me:pass@y",
			[]string{"OAUTH__ISSUER_URL: expected no user", "OAUTH__CLIENTS__0__ISSUER_URL: expected no user"}},
		{"NATS__URL=http://me:sesame@host", []string{"NATS__URL=\"xxxxx@host\""}},
		{"NATS__URL=nats://me:ses%ame@host", []string{"NATS__URL=\"xxxxx@host\""}},
		{"REGISTRY__URL=http://x REGISTRY__CLIENT_ID=c REGISTRY__CLIENT_SECRET=s REGISTRY__ISSUER_URL=http://i", []string{"expected USER_AUTH__URL beside it"}},
		{"USER_AUTH__CLIENT_ID=c USER_AUTH__ISSUER_URL=http://i", []string{"USER_AUTH__CLIENT_ID=\"c\": has no effect", "USER_AUTH__ISSUER_URL=\"http://i\": has no effect"}},
		{"REGISTRY__CLIENT_SECRET=sesame", []string{"REGISTRY__CLIENT_SECRET=(hidden): has no effect without REGISTRY__URL"}},
		{"EDGE__ACCESS_CACHE=31s EDGE__ACCESS_STALE=0s", nil},
		{"EDGE__ACCESS_CACHE=100ms EDGE__ACCESS_STALE=-1s", []string{"EDGE__ACCESS_CACHE=\"100ms\"", "EDGE__ACCESS_STALE=\"-1s\""}},
		{"EDGE__ACCESS_CACHE=61m EDGE__ACCESS_STALE=25h", []string{"EDGE__ACCESS_CACHE=\"1h1m0s\"", "EDGE__ACCESS_STALE=\"25h0m0s\""}},
		{"EDGE__ACCESS_CACHE=30s HTTP__CORS__MODE=disabled EDGE__LIMITS__CONNECTIONS_PER_USER=0 EDGE__ALLOWED_ORIGINS=", nil},
		{"EDGE__LIMITS__CONNECTIONS=-1", []string{"EDGE__LIMITS__CONNECTIONS"}},
		{"EDGE__PING__INTERVAL=1500ms EDGE__PING__TIMEOUT=0s", []string{"INTERVAL=\"1.5s\": expected whole seconds", "TIMEOUT=\"0s\""}},
		{"EDGE__BUFFERS__FEED_AGE=-1s EDGE__BUFFERS__FEED_BYTES=1KiB EDGE__BUFFERS__REPAIR_BYTES=1KiB EDGE__BUFFERS__REPLAY_BYTES=1KiB EDGE__BUFFERS__SOCKET_BYTES=0", []string{"FEED_AGE", "FEED_BYTES", "REPAIR_BYTES", "REPLAY_BYTES", "SOCKET_BYTES"}},
		{"EDGE__BUFFERS__TOTAL_BYTES=1MiB", []string{"expected at least EDGE__BUFFERS__FEED_BYTES"}},
		{"EDGE__DRAIN=0s", []string{"EDGE__DRAIN"}},
		{"OAUTH__ISSUER_URL=http://x", []string{"expected OAUTH__CLIENTS__0__CLIENT_ID"}},
		{"OAUTH__ISSUER_URL=x OAUTH__CLIENTS__0__CLIENT_ID=c", []string{"expected an http or https URL"}},
		{"OAUTH__CLIENTS__0__CLIENT_ID=c", []string{"OAUTH__CLIENTS__0__ISSUER_URL: expected an issuer"}},
		{"OAUTH__CLIENTS__0__ISSUER_URL=http://x", []string{"OAUTH__CLIENTS__0__CLIENT_ID: expected the client's id"}},
		{"OAUTH__ISSUER_URL=http://x OAUTH__CLIENTS__0__CLIENT_ID=c OAUTH__CLIENTS__1__CLIENT_ID=d OAUTH__CLIENTS__1__ISSUER_URL=http://x", nil},
		{"OAUTH__ISSUER_URL=http://x OAUTH__CLIENTS__0__CLIENT_ID=c OAUTH__CLIENTS__1__CLIENT_ID=d OAUTH__CLIENTS__1__ISSUER_URL=http://y", nil},
	} {
		t.Run(c.environ, func(t *testing.T) {
			problemsOf(t, edgeConfig(t, strings.Fields(c.environ)...).ValidateEdge(), c.want...)
		})
	}
}

func TestValidateIngestSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		environ string
		want    []string
	}{
		{"KAFKA__BOOTSTRAP_SERVERS=", []string{"expected brokers"}},
		{"KAFKA__BOOTSTRAP_SERVERS=a:1,b,c:0,:9", []string{`for "b"`, `for "c:0"`, `for ":9"`}},
		{"KAFKA__PROPERTIES__SECURITY_PROTOCOL=tls", []string{"expected plaintext, ssl"}},
		{"KAFKA__PROPERTIES__SECURITY_PROTOCOL=SASL_SSL", []string{"SASL_MECHANISM", "SASL_USERNAME", "SASL_PASSWORD=(hidden)"}},
		{"KAFKA__PROPERTIES__SASL_MECHANISM=PLAIN", []string{"has no effect without sasl_ssl"}},
		{"KAFKA__PROPERTIES__SSL_CA_LOCATION=ca", []string{"would not be encrypted"}},
		{"KAFKA__PROPERTIES__SECURITY_PROTOCOL=ssl KAFKA__PROPERTIES__SSL_CERTIFICATE_LOCATION=c", []string{"SSL_KEY_LOCATION"}},
		{"KAFKA__PROPERTIES__SSL_ENDPOINT_IDENTIFICATION_ALGORITHM=", []string{"expected https or none"}},
		{"INGEST__TOPICS=", []string{"expected topics"}},
		{"INGEST__TOPICS=^(events|evt)-.*,!^.*[-._](dlt|retry)([-._].*)?$,!a,b", nil},
		{"INGEST__TOPICS=!^.*-dlt$,!a", []string{"expected topics"}},
		{"INGEST__TOPICS=!,^a,!^(", []string{"expected a pattern", `instead of ""`}},
		{"INGEST__TOPICS=^(,a/b", []string{"expected a pattern"}},
		{"INGEST__TOPICS=a/b,^a{2,3}", []string{`instead of "a/b"`}},
		{"INGEST__GROUP= INGEST__START=now INGEST__CONSUMERS=0", []string{"INGEST__GROUP", "earliest or latest", "INGEST__CONSUMERS"}},
		{"INGEST__SHARDS=0", []string{"expected 1 to 1024"}},
		{"INGEST__SHARDS=1025", []string{"expected 1 to 1024"}},
		{"INGEST__SESSION_TIMEOUT=999ms", []string{"expected at least 1s"}},
		{"INGEST__REPLICAS=2", []string{"expected 0, 1, 3 or 5"}},
		{"INGEST__WINDOW__RECORDS=0 INGEST__WINDOW__BYTES=1", []string{"RECORDS", "BYTES"}},
		{"INGEST__RETENTION__AGE=1m", []string{"expected at most INGEST__RETENTION__AGE"}},
		{"INGEST__RETENTION__AGE=0s INGEST__DUPLICATES=0s", []string{"AGE", "DUPLICATES"}},
		{"INGEST__RETENTION__BYTES=63MiB", []string{"1MiB for each"}},
		{"INGEST__RETENTION__EVENTS_PER_APPLICATION=0", []string{"EVENTS_PER_APPLICATION"}},
		{"INGEST__RETENTION__SHARE=0", []string{"INGEST__RETENTION__SHARE"}},
		{"INGEST__RETENTION__SHARE=101", []string{"expected 1 to 100 percent"}},
		{"INGEST__RETENTION__SHARE=100", nil},
		{"NATS__URL=", []string{"NATS__URL"}},
		{"NATS__URL=nats://a:1,http://b", []string{"NATS__URL"}},
		{"NATS__URL=a:4222,tls://u:p@b,wss://c:443", nil},
		{"NATS__TLS__KEY_FILE=k", []string{"NATS__TLS__CERT_FILE"}},
		{"RUNTIME__HEALTH__HOSTS=canopy-edge,Edge.example.,*.canopy.svc,a_b,10.0.0.1 RUNTIME__HEALTH__DEBUG_TOKEN=0123456789abcdef", nil},
		{"RUNTIME__HEALTH__HOSTS=*", []string{"expected host names"}},
		{"RUNTIME__HEALTH__HOSTS=edge,edge:9090", []string{"expected host names without ports"}},
		{"RUNTIME__HEALTH__HOSTS=http://edge", []string{"expected host names"}},
		{"RUNTIME__HEALTH__HOSTS=e*.svc", []string{"expected host names"}},
		{"RUNTIME__HEALTH__DEBUG_TOKEN=0123456789abcde", []string{"RUNTIME__HEALTH__DEBUG_TOKEN: expected 16 to 1000 characters"}},
		{"RUNTIME__HEALTH__DEBUG_TOKEN=0123456789abcdéf", []string{"RUNTIME__HEALTH__DEBUG_TOKEN: expected 16 to 1000 characters"}},
		{"RUNTIME__HEALTH__BIND_ADDR=9090 RUNTIME__LOG__LEVEL=loud RUNTIME__LOG__FORMAT=xml", []string{"host:port", "expected debug, info, warn or error", "expected json or console"}},
	} {
		t.Run(c.environ, func(t *testing.T) {
			problemsOf(t, ingestConfig(t, strings.Fields(c.environ)...).ValidateIngest(), c.want...)
		})
	}
}
