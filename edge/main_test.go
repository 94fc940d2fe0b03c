package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"

	"canopy/shared/config"
	"canopy/shared/obs"
)

func TestHashKeyPrintsTheEntryOfAKey(t *testing.T) {
	const sumOf1 = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
	for _, c := range []struct{ args, in, want string }{
		{"hash-key --user alice", "1", `  - {user: "alice", sha256: ` + sumOf1 + "}\n"},
		{"hash-key --user=alice", "1\n", `  - {user: "alice", sha256: ` + sumOf1 + "}\n"},
		{"hash-key", "1\r\n", `  - {user: "USER", sha256: ` + sumOf1 + "}\n"},
	} {
		var out bytes.Buffer
		status, err := run(strings.Fields(c.args), nil, strings.NewReader(c.in), &out)
		if status != exitOK || err != nil || out.String() != c.want {
			t.Errorf("%s of %q printed %q, %d, %v; want %q", c.args, c.in, out.String(), status, err, c.want)
		}
	}
}

func TestHashKeyTakesOnlyOneNewlineOff(t *testing.T) {
	var one, two bytes.Buffer
	if err := (hashKey{User: "u"}).print(strings.NewReader("k\n"), &one); err != nil {
		t.Fatal(err)
	}
	if err := (hashKey{User: "u"}).print(strings.NewReader("k\n\n"), &two); err != nil {
		t.Fatal(err)
	}
	if one.String() == two.String() {
		t.Error("a second newline was taken off")
	}
}

func TestHashKeyRefusesBadKeysAndUsers(t *testing.T) {
	for _, c := range []struct{ user, in string }{
		{"alice", ""}, {"alice", "\n"}, {"alice", "\r\n"}, {"alice", strings.Repeat("k", maxKey+1)},
		{"", "k"}, {"role:operators", "k"}, {"1/alice", "k"},
	} {
		var out bytes.Buffer
		if err := (hashKey{User: c.user}).print(strings.NewReader(c.in), &out); err == nil || out.Len() > 0 {
			t.Errorf("user %q, key of %d bytes: printed %q, %v", c.user, len(c.in), out.String(), err)
		}
	}
}

func TestEdgeTellsItsMistakesByItsStatus(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	apps := filepath.Join(t.TempDir(), "apps.yaml")
	if err := os.WriteFile(apps, []byte("applications: {a: {public: true}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	health := "RUNTIME__HEALTH__BIND_ADDR=" + taken.Addr().String()
	for _, c := range []struct {
		args    string
		environ []string
		status  int
		out     string
		err     string
	}{
		{"--help", nil, exitOK, "hash-key", ""},
		{"--version", nil, exitOK, "canopy-edge ", ""},
		{"hash-key --help", nil, exitOK, "--user", ""},
		{"health --help", nil, exitOK, "--liveness", ""},
		{"health", []string{"RUNTIME__HEALTH__BIND_ADDR=127.0.0.1:0"}, exitRuntime, "", "not ready"},
		{"health", []string{"RUNTIME__HEALTH__BIND=x"}, exitConfig, "", "unknown setting"},
		{"--bogus", nil, exitConfig, "", "unknown flag --bogus"},
		{"", []string{"EDGE__DRAIN=x", "HTTP__BIND=x"}, exitConfig, "", "3 problems"},
		{"", []string{"EDGE__APPLICATIONS_FILE=" + apps, "HTTP__BIND_ADDR=127.0.0.1:0", health}, exitRuntime, "", "in use"},
	} {
		var out bytes.Buffer
		status, err := run(strings.Fields(c.args), c.environ, strings.NewReader(""), &out)
		if status != c.status || !strings.Contains(out.String(), c.out) || (err == nil) != (c.err == "") ||
			err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q %q: status %d, %v, output %q", c.args, c.environ, status, err, out.String())
		}
	}
}

func TestHealthAsksTheDaemonThatRunsHere(t *testing.T) {
	daemon := obs.NewHealth(config.Health{BindAddr: "0.0.0.0:0"}, obs.NewRegistry(), zap.NewNop())
	if err := daemon.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- daemon.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	environ := []string{"RUNTIME__HEALTH__BIND_ADDR=" + daemon.Addr().String()}
	for _, c := range []struct {
		args   string
		ready  bool
		status int
		out    string
	}{
		{"health", false, exitRuntime, ""},
		{"health --liveness", false, exitOK, "alive\n"},
		{"health", true, exitOK, "ready\n"},
	} {
		daemon.SetReady(c.ready)
		var out bytes.Buffer
		status, err := run(strings.Fields(c.args), environ, strings.NewReader(""), &out)
		if status != c.status || out.String() != c.out || (err == nil) != (c.status == exitOK) {
			t.Errorf("%s: status %d, %v, output %q", c.args, status, err, out.String())
		}
	}
}
