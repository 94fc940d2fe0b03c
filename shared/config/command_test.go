package config

import (
	"bytes"
	"errors"
	"os"
	"runtime/debug"
	"strings"
	"testing"
)

func TestHelpNamesEverySettingAndItsDefault(t *testing.T) {
	var out bytes.Buffer
	var flags Flags
	if _, err := Parse("canopy-test", "Does a thing.", &flags, []string{"--help"}, &out); !errors.Is(err, ErrDone) {
		t.Fatalf("--help ended with %v", err)
	}
	text := out.String()
	for _, s := range settings {
		if !strings.Contains(text, "\n  "+s.name+"  (") {
			t.Errorf("--help does not name %s", s.name)
		}
		if s.def != "" && !strings.Contains(text, "default "+s.def) {
			t.Errorf("--help does not tell the default %q of %s", s.def, s.name)
		}
	}
	for _, want := range []string{
		"Usage: canopy-test", "Does a thing.", "--config=FILE", "--version",
		"  KAFKA__PROPERTIES__SASL_PASSWORD  (text, secret)\n      password for SASL\n",
		"  EDGE__BUFFERS__FEED_BYTES  (bytes, default 16MiB)\n",
		"  USER_AUTH__URL  (text)\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("--help does not say %q", want)
		}
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "      ") && len(line) > helpWidth+1 {
			t.Errorf("line of %d bytes: %q", len(line), line)
		}
	}
}

func TestVersionTellsVersionAndCommit(t *testing.T) {
	defer func(v string) { Version = v }(Version)
	Version = "1.2.3"
	var out bytes.Buffer
	var flags Flags
	if _, err := Parse("canopy-test", "", &flags, []string{"--version"}, &out); !errors.Is(err, ErrDone) {
		t.Fatalf("--version ended with %v", err)
	}
	if got := out.String(); !strings.HasPrefix(got, "canopy-test 1.2.3 (commit ") {
		t.Errorf("--version printed %q", got)
	}
}

func TestCommitSaysWhenTheTreeWasChanged(t *testing.T) {
	for _, c := range []struct {
		settings []debug.BuildSetting
		want     string
	}{
		{nil, "unknown"},
		{[]debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "false"}}, "abc"},
		{[]debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}}, "abc-dirty"},
	} {
		if got := commitOf(c.settings); got != c.want {
			t.Errorf("commit of %v is %q, want %q", c.settings, got, c.want)
		}
	}
}

func TestParseRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, args := range [][]string{{"--bogus"}, {"argument"}, {"--config"}} {
		var flags Flags
		_, err := Parse("canopy-test", "", &flags, args, os.Stdout)
		if err == nil || errors.Is(err, ErrDone) || !strings.Contains(err.Error(), "canopy-test --help") {
			t.Errorf("%q ended with %v", args, err)
		}
	}
}

func TestLoadTakesTheFileInBothSpellings(t *testing.T) {
	path := writeFile(t, "ingest: {shards: 3}")
	for _, args := range [][]string{{"--config", path}, {"--config=" + path}} {
		cfg, err := Load("canopy-test", args, nil)
		if err != nil || cfg.Ingest.Shards != 3 {
			t.Errorf("%q gave %d shards, %v", args, cfg.Ingest.Shards, err)
		}
	}
	if cfg, err := Load("canopy-test", nil, []string{"INGEST__SHARDS=4"}); err != nil || cfg.Ingest.Shards != 4 {
		t.Errorf("no arguments gave %d shards, %v", cfg.Ingest.Shards, err)
	}
	if _, err := Load("canopy-test", []string{"--bogus"}, nil); err == nil {
		t.Error("an unknown flag was taken")
	}
}

func TestParseTellsTheCommandThatWasChosen(t *testing.T) {
	for _, c := range []struct {
		args    string
		command string
	}{{"", "run"}, {"--config=x", "run"}, {"run --config=x", "run"}, {"other", "other"}} {
		var grammar struct {
			Flags
			Run   struct{} `cmd:"" default:"1" help:"Runs."`
			Other struct{} `cmd:"" help:"Does another thing."`
		}
		if got, err := Parse("canopy-test", "", &grammar, strings.Fields(c.args), os.Stdout); err != nil || got != c.command {
			t.Errorf("%q chose %q, %v; want %q", c.args, got, err, c.command)
		}
	}
}
