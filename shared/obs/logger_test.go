package obs

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"canopy/shared/config"
)

func TestLoggerWritesJSONWithToolAndUTCTime(t *testing.T) {
	var out bytes.Buffer
	log, err := newLogger(config.Log{Level: "info", Format: "json"}, "canopy-test", &out)
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("below the level")
	log.Info("above it", zap.Duration("took", 1500*time.Millisecond))
	var line struct{ Time, Level, Message, Tool, Took string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v in %q", err, out.String())
	}
	if line.Level != "info" || line.Message != "above it" || line.Tool != "canopy-test" || line.Took != "1.5s" {
		t.Errorf("got %q", out.String())
	}
	if at, err := time.Parse(timeLayout, line.Time); err != nil || time.Since(at) > time.Minute {
		t.Errorf("time %q: %v", line.Time, err)
	}
}

func TestLoggerWritesForTheConsole(t *testing.T) {
	var out bytes.Buffer
	log, err := newLogger(config.Log{Level: "debug", Format: "console"}, "canopy-test", &out)
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("hello")
	if got := out.String(); !strings.Contains(got, "\tdebug\t") || !strings.Contains(got, "hello") || !strings.Contains(got, "canopy-test") {
		t.Errorf("got %q", got)
	}
}

func TestLoggerThinsOutALineThatRepeats(t *testing.T) {
	var out bytes.Buffer
	log, err := newLogger(config.Log{Level: "info", Format: "json"}, "canopy-test", &out)
	if err != nil {
		t.Fatal(err)
	}
	const lines = 5000
	for range lines {
		log.Info("the same")
	}
	if n := strings.Count(out.String(), "\n"); n < sampleFirst || n > lines/2 {
		t.Errorf("%d of %d lines were written", n, lines)
	}
}

func TestLoggerRefusesUnknownLevelsAndFormats(t *testing.T) {
	for _, cfg := range []config.Log{{Level: "loud", Format: "json"}, {Level: "info", Format: "xml"}} {
		if _, err := NewLogger(cfg, "canopy-test"); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}
