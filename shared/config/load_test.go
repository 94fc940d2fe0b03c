package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "canopy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// problemsOf fails unless err is a Problems with one line for each of want, in any order.
func problemsOf(t *testing.T, err error, want ...string) {
	t.Helper()
	problems, ok := errors.AsType[Problems](err)
	if !ok && len(want) > 0 {
		t.Fatalf("got %v, want %d problems", err, len(want))
	}
	if len(problems) != len(want) {
		t.Errorf("got %d problems, want %d: %v", len(problems), len(want), err)
	}
	for _, w := range want {
		found := false
		for _, p := range problems {
			found = found || strings.Contains(p, w)
		}
		if !found {
			t.Errorf("no problem says %q: %v", w, err)
		}
	}
}

func TestReadStartsFromTheDefaults(t *testing.T) {
	cfg, err := Read("", []string{"PATH=/bin", "LOCAL__RUN=x", "HTTPS__X=y", "http__bind_addr=x", "no equals sign"})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.HTTP.BindAddr != "127.0.0.1:8080" || cfg.Edge.Ping.Interval != 25*time.Second ||
		cfg.Edge.Buffers.FeedBytes != 16<<20 || cfg.Ingest.Retention.Bytes != 10<<30 ||
		!reflect.DeepEqual(cfg.Ingest.Topics, []string{"^(events|evt)-.*"}) {
		t.Errorf("defaults are %+v", cfg)
	}
}

func TestReadLetsTheEnvironmentWinOverTheFile(t *testing.T) {
	path := writeFile(t, `
http:
  bind_addr: 127.0.0.1:1
  disable_tls: true
  cors:
edge: {}
ingest:
  shards: 8
  topics: ["^a{2,3}", "b,c"]
  retention: {age: 1h, bytes: 1GiB}
oauth:
  issuer_url: http://issuer
  clients:
    0: {client_id: file}
    7: {client_id: seven}
`)
	cfg, err := Read(path, []string{
		"HTTP__BIND_ADDR=127.0.0.1:2", "HTTP__BIND_ADDR=127.0.0.1:3", "INGEST__RETENTION__AGE=2h",
		"OAUTH__CLIENTS__0__CLIENT_ID=env", "OAUTH__CLIENTS__1__CLIENT_ID=one",
		"KAFKA__PROPERTIES__SECURITY_PROTOCOL=SASL_SSL", "KAFKA__PROPERTIES__SASL_MECHANISM=scram-sha-512",
	})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.HTTP.BindAddr != "127.0.0.1:3" || !cfg.HTTP.DisableTLS || cfg.Ingest.Shards != 8 ||
		cfg.Ingest.Retention.Age != 2*time.Hour || cfg.Ingest.Retention.Bytes != 1<<30 {
		t.Errorf("got %+v", cfg)
	}
	if want := []string{"^a{2,3}", "b,c"}; !reflect.DeepEqual(cfg.Ingest.Topics, want) {
		t.Errorf("topics are %q, want %q", cfg.Ingest.Topics, want)
	}
	clients := map[string]OAuthClient{"0": {ClientID: "env"}, "1": {ClientID: "one"}, "7": {ClientID: "seven"}}
	if !reflect.DeepEqual(cfg.OAuth.Clients, clients) {
		t.Errorf("clients are %v, want %v", cfg.OAuth.Clients, clients)
	}
	if p := cfg.Kafka.Properties; p.SecurityProtocol != "sasl_ssl" || p.SASLMechanism != "SCRAM-SHA-512" {
		t.Errorf("protocol and mechanism are %q and %q", p.SecurityProtocol, p.SASLMechanism)
	}
}

func TestReadNumbersAListOfClients(t *testing.T) {
	cfg, err := Read(writeFile(t, "oauth:\n  clients:\n  - client_id: a\n  - {client_id: b, issuer_url: http://b}\n"), nil)
	want := map[string]OAuthClient{"0": {ClientID: "a"}, "1": {ClientID: "b", IssuerURL: "http://b"}}
	if err != nil || !reflect.DeepEqual(cfg.OAuth.Clients, want) {
		t.Errorf("got %v, %v; want %v", cfg.OAuth.Clients, err, want)
	}
}

func TestReadReportsEveryProblemOfBothSourcesAtOnce(t *testing.T) {
	path := writeFile(t, `
http: {bind_addr: 5, Disable_TLS: true, bindaddr: x}
ingest: {shards: many, retention: 5}
user_auth: {client_secret: [sesame]}
whatever: 1
`)
	cfg, err := Read(path, []string{
		"EDGE__LIMITS__CONNECTIONS=abc", "EDGE__DRAIN=20", "EDGE__BUFFERS__FEED_BYTES=16MB", "HTTP__PROXY_PROTOCOL=on",
		"HTTP__BIND_ADDRESS=x", "HTTP__CORS=x", "RUNTIME__=x", "OAUTH__CLIENTS__X__CLIENT_ID=x", "OAUTH__CLIENTS=x",
		"INGEST__START=latest", // is well
	})
	problemsOf(t, err,
		`http.bind_addr in `+path+` (HTTP__BIND_ADDR="5"): expected text`,
		"http.Disable_TLS in "+path+": unknown setting; names in the file are lower case",
		"http.bindaddr in "+path+": unknown setting; did you mean http.bind_addr?",
		`ingest.shards in `+path+` (INGEST__SHARDS="many"): expected a whole number`,
		"ingest.retention in "+path+": expected settings below",
		`user_auth.client_secret in `+path+` (USER_AUTH__CLIENT_SECRET=(hidden)): expected text`,
		"whatever in "+path+": unknown setting",
		`EDGE__LIMITS__CONNECTIONS="abc": expected a whole number`,
		`EDGE__DRAIN="20": expected a duration such as`,
		`EDGE__BUFFERS__FEED_BYTES="16MB": expected a number of bytes`,
		`HTTP__PROXY_PROTOCOL="on": expected true or false`,
		"HTTP__BIND_ADDRESS: unknown setting; did you mean HTTP__BIND_ADDR?",
		"HTTP__CORS: expected settings below this name",
		"RUNTIME__: unknown setting",
		"OAUTH__CLIENTS__X__CLIENT_ID: unknown setting; did you mean OAUTH__CLIENTS__<N>__CLIENT_ID?",
		"OAUTH__CLIENTS: expected settings below this name",
	)
	if strings.Contains(err.Error(), "sesame") {
		t.Errorf("a secret is shown: %v", err)
	}
	if cfg.Ingest.Shards != 64 || cfg.HTTP.BindAddr != "127.0.0.1:8080" || cfg.Ingest.Start != "latest" {
		t.Errorf("bad values are not replaced by defaults, or good ones are: %+v", cfg)
	}
}

func TestReadReportsAFileThatIsNoConfiguration(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.yaml")
	_, err := Read(missing, []string{"EDGE__DRAIN=x"})
	problemsOf(t, err, "--config "+missing, "EDGE__DRAIN")
	for _, text := range []string{"- a\n", "a: [", "http: {a: 1}\nhttp: {b: 1}\n", "text"} {
		_, err := Read(writeFile(t, text), nil)
		problemsOf(t, err, "--config ")
	}
	for _, text := range []string{"", "# nothing\n", "http:\n", "http: {bind_addr: }\n"} {
		if _, err := Read(writeFile(t, text), nil); err != nil {
			t.Errorf("file %q: %v", text, err)
		}
	}
}

func TestNoProblemOfAFileTellsASecret(t *testing.T) {
	for _, text := range []string{
		"user_auth:\n  client_secret: *sesame\n",
		"user_auth:\n  client_secret: %sesame\n",
		"user_auth:\n  client_secret: [sesame]\n",
		"user_auth:\n  client_secret: {sesame: x}\n",
		"user_auth:\n  client_secret: {a: {sesame: x}, b: 1}\n",
		"user_auth:\n  client_secret: a\n  client_secret: sesame\n",
		"user_auth: sesame\n",
		"sesame\n",
	} {
		path := writeFile(t, text)
		_, err := Read(path, nil)
		problemsOf(t, err, path)
		if err != nil && strings.Contains(err.Error(), "sesame") {
			t.Errorf("file %q: a secret is shown: %v", text, err)
		}
	}
	_, err := Read(writeFile(t, "http:\n  cors:\n  bind_addr: *sesame\n"), nil)
	problemsOf(t, err, "line 3: unknown anchor; text that begins with * needs quotes")
}

func TestJoinSaysEachProblemOnce(t *testing.T) {
	if err := Join(nil, nil); err != nil {
		t.Errorf("joined nothing to %v", err)
	}
	err := Join(Problems{"a", "b"}, nil, errors.New("c"), Problems{"b"})
	problemsOf(t, err, "a", "b", "c")
}

func FuzzReadNeverPanicsAndNamesWhatItRefuses(f *testing.F) {
	f.Add("HTTP__BIND_ADDR", "x", "http: {bind_addr: y}")
	f.Add("OAUTH__CLIENTS__0__CLIENT_ID", "x", "oauth: {clients: [{client_id: 1}, 2]}")
	f.Add("INGEST__TOPICS", `^a{2,3},\`, "ingest: {topics: [a, 1]}")
	f.Add("EDGE__BUFFERS__FEED_BYTES", "-9223372036854775808KiB", "edge: 5")
	f.Add("HTTP__", "=", "1: {2: 3}")
	path := filepath.Join(f.TempDir(), "canopy.yaml")
	f.Fuzz(func(t *testing.T, name, value, file string) {
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := Read(path, []string{name + "=" + value})
		err = Join(err, cfg.ValidateEdge(), cfg.ValidateIngest())
		if _, ok := errors.AsType[Problems](err); !ok {
			t.Fatalf("no Problems although brokers and applications are missing: %v", err)
		}
		actual, _, _ := strings.Cut(name+"="+value, "=")
		if _, known := lookup(actual); !known && ours(actual) && !strings.Contains(err.Error(), actual+": ") {
			t.Fatalf("%q is unknown and not named: %v", actual, err)
		}
	})
}
