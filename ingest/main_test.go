package main

import (
	"bytes"
	"net"
	"strings"
	"testing"
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
