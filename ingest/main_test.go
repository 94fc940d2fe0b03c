package main

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"

	"go.uber.org/zap"

	"canopy/shared/config"
	"canopy/shared/obs"
)

func TestIngestTellsItsMistakesByItsStatus(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	health := "RUNTIME__HEALTH__BIND_ADDR=" + taken.Addr().String()
	for _, c := range []struct {
		args    string
		environ []string
		status  int
		out     string
		err     string
	}{
		{"--help", nil, exitOK, "INGEST__TOPICS", ""},
		{"--version", nil, exitOK, "canopy-ingest ", ""},
		{"health --help", nil, exitOK, "--liveness", ""},
		{"health", []string{"RUNTIME__HEALTH__BIND_ADDR=127.0.0.1:0"}, exitRuntime, "", "not ready"},
		{"health", []string{"RUNTIME__HEALTH__BIND=x"}, exitConfig, "", "unknown setting"},
		{"--bogus", nil, exitConfig, "", "unknown flag --bogus"},
		{"", []string{"INGEST__SHARDS=x", "INGEST__TOPIC=x"}, exitConfig, "", "3 problems"},
		{"", []string{"KAFKA__BOOTSTRAP_SERVERS=127.0.0.1:1", health}, exitRuntime, "", "in use"},
	} {
		var out bytes.Buffer
		status, err := run(strings.Fields(c.args), c.environ, &out)
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
		status, err := run(strings.Fields(c.args), environ, &out)
		if status != c.status || out.String() != c.out || (err == nil) != (c.status == exitOK) {
			t.Errorf("%s: status %d, %v, output %q", c.args, status, err, out.String())
		}
	}
}
