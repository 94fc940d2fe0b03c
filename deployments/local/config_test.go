package local

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"canopy/shared/config"
)

func load(t *testing.T, environ ...string) Config {
	t.Helper()
	cfg, err := Load("", environ)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestEveryPartRunsWhereNothingIsSet(t *testing.T) {
	cfg := load(t)
	for _, part := range Parts {
		if !cfg.runs(part) {
			t.Errorf("%s does not run", part)
		}
	}
	if s := cfg.Settings; s.Ingest.Shards != 4 || s.Ingest.Replicas != 1 || s.HTTP.BindAddr != "127.0.0.1:8080" {
		t.Errorf("got %+v, %+v", s.Ingest, s.HTTP)
	}
}

func TestEnvironmentWinsOverTheStacksDefaults(t *testing.T) {
	cfg := load(t, "INGEST__SHARDS=8", "LOCAL__RUN=nats, ingest", "LOCAL__NATS_ADDR=127.0.0.1:5222")
	if cfg.Settings.Ingest.Shards != 8 || cfg.NATSAddr != "127.0.0.1:5222" {
		t.Errorf("got %+v", cfg)
	}
	if want := []string{NATS, Ingest}; !slices.Equal(cfg.Run, want) {
		t.Errorf("Run = %v, want %v", cfg.Run, want)
	}
}

func TestFileIsNotOverruledByTheStacksDefaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "canopy.yaml")
	if err := os.WriteFile(path, []byte("ingest:\n  shards: 16\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Settings.Ingest.Shards != 16 {
		t.Errorf("shards = %d, want those of the file, 16", cfg.Settings.Ingest.Shards)
	}
}

func TestSettingsFollowFromTheStackUnlessTheyAreSet(t *testing.T) {
	at := Addrs{Kafka: "127.0.0.1:1", NATS: "127.0.0.1:2", Issuer: "http://127.0.0.1:3", Applications: "a.yaml"}
	s := load(t).fill(at)
	if s.Kafka.BootstrapServers[0] != at.Kafka || s.NATS.URL != "nats://127.0.0.1:2" ||
		s.OAuth.IssuerURL != at.Issuer || s.OAuth.Clients["0"].ClientID != "canopy" || s.Edge.ApplicationsFile != "a.yaml" {
		t.Errorf("got %+v", s)
	}
	s = load(t, "KAFKA__BOOTSTRAP_SERVERS=k:9092", "NATS__URL=nats://n:4222", "OAUTH__ISSUER_URL=http://i",
		"OAUTH__CLIENTS__0__CLIENT_ID=other", "EDGE__APPLICATIONS_FILE=b.yaml").fill(at)
	if s.Kafka.BootstrapServers[0] != "k:9092" || s.NATS.URL != "nats://n:4222" ||
		s.OAuth.IssuerURL != "http://i" || s.OAuth.Clients["0"].ClientID != "other" || s.Edge.ApplicationsFile != "b.yaml" {
		t.Errorf("got %+v", s)
	}
}

func TestEveryProblemOfTheConfigurationIsNamedAtOnce(t *testing.T) {
	_, err := Load("", []string{
		"LOCAL__RUN=kafka,teapot", "LOCAL__FOO=1", "LOCAL__KAFKA_ADDR=9092", "LOCAL__ISSUER_URL=ftp://x",
		"HTTP__FOO=1", "INGEST__SHARDS=many",
	})
	problems, ok := err.(config.Problems)
	if !ok {
		t.Fatalf("got %v, want problems", err)
	}
	for _, name := range []string{"LOCAL__RUN", "LOCAL__FOO", "LOCAL__KAFKA_ADDR", "LOCAL__ISSUER_URL", "HTTP__FOO", "INGEST__SHARDS"} {
		if !slices.ContainsFunc(problems, func(p string) bool { return strings.HasPrefix(p, name) }) {
			t.Errorf("no problem names %s: %v", name, problems)
		}
	}
}

func TestSensorsAreRefusedWhereKafkaWantsMoreThanTheyCan(t *testing.T) {
	_, err := Load("", []string{"KAFKA__BOOTSTRAP_SERVERS=k:9092", "KAFKA__PROPERTIES__SECURITY_PROTOCOL=ssl"})
	if err == nil || !strings.Contains(err.Error(), "LOCAL__RUN") {
		t.Errorf("got %v", err)
	}
}

func TestHelpNamesEverySettingOfTheStack(t *testing.T) {
	for _, name := range []string{
		"LOCAL__RUN", "LOCAL__KAFKA_ADDR", "LOCAL__NATS_ADDR", "LOCAL__ISSUER_ADDR", "LOCAL__ISSUER_URL",
		"LOCAL__INGEST_HEALTH_ADDR", "LOCAL__DATA_DIR",
	} {
		if !strings.Contains(Help, name) {
			t.Errorf("help does not name %s", name)
		}
	}
	for _, def := range ownDefaults {
		if !strings.Contains(Help, def) {
			t.Errorf("help does not name the default %s", def)
		}
	}
}

func TestLinesForMoreProcessesAreComplete(t *testing.T) {
	cfg := load(t)
	at := Addrs{
		Kafka: "127.0.0.1:9092", NATS: "127.0.0.1:4222", Issuer: "http://127.0.0.1:8081",
		HTTP: "127.0.0.1:8080", Health: "127.0.0.1:9090", Applications: "/data dir/applications.yaml",
	}
	const edge = "HTTP__BIND_ADDR=127.0.0.1:8180 RUNTIME__HEALTH__BIND_ADDR=127.0.0.1:9190 NATS__URL=nats://127.0.0.1:4222 " +
		"EDGE__APPLICATIONS_FILE='/data dir/applications.yaml' OAUTH__ISSUER_URL=http://127.0.0.1:8081 " +
		"OAUTH__CLIENTS__0__CLIENT_ID=canopy bin/canopy-edge"
	if got := edgeLine(cfg, at); got != edge {
		t.Errorf("got  %s\nwant %s", got, edge)
	}
	const ingest = "KAFKA__BOOTSTRAP_SERVERS=127.0.0.1:9092 NATS__URL=nats://127.0.0.1:4222 " +
		"RUNTIME__HEALTH__BIND_ADDR=127.0.0.1:9191 INGEST__SHARDS=4 INGEST__REPLICAS=1 " +
		"INGEST__RETENTION__BYTES=1073741824 bin/canopy-ingest"
	if got := ingestLine(cfg, at); got != ingest {
		t.Errorf("got  %s\nwant %s", got, ingest)
	}
}

func TestApplicationsFileOfTheDemoIsMadeOnceAndReadableByItsOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	path, key, err := demoApplications(dir)
	if err != nil || key == "" {
		t.Fatalf("key %q, error %v", key, err)
	}
	if _, again, err := demoApplications(dir); err != nil || again != key {
		t.Errorf("second time: key %q, error %v, want %q", again, err, key)
	}
	for _, name := range []string{path, filepath.Join(dir, "api-key")} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode().Perm())
		}
	}
	if content, err := os.ReadFile(path); err != nil || strings.Contains(string(content), key) {
		t.Errorf("the file holds the key itself, or cannot be read: %v", err)
	}
	if err := os.WriteFile(path, []byte("applications: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, known, err := demoApplications(dir); err != nil || known != "" {
		t.Errorf("key %q that the edited file does not hold, error %v", known, err)
	}
}
