// Package obs is what the operator of a daemon sees and says: the logger, the server of
// probes, metrics and profiles, and the signals that stop it.
package obs

import (
	"fmt"
	"io"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"canopy/shared/config"
)

const (
	// Per second, of lines of one level and message: the first ones, then every nth.
	sampleFirst      = 100
	sampleThereafter = 100

	timeLayout = "2006-01-02T15:04:05.000Z"
)

// NewLogger makes the logger of the daemon tool, writing to standard error. Of many lines
// with the same level and message in one second the first 100 are written, then each
// 100th. Its errors are an unknown level or format.
func NewLogger(cfg config.Log, tool string) (*zap.Logger, error) {
	return newLogger(cfg, tool, os.Stderr)
}

func newLogger(cfg config.Log, tool string, w io.Writer) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(cfg.Level)
	if err != nil {
		return nil, fmt.Errorf("make logger: %w", err)
	}
	enc := zap.NewProductionEncoderConfig()
	enc.TimeKey = "time"
	enc.MessageKey = "message"
	enc.EncodeTime = func(t time.Time, p zapcore.PrimitiveArrayEncoder) {
		p.AppendString(t.UTC().Format(timeLayout))
	}
	enc.EncodeDuration = zapcore.StringDurationEncoder
	var encoder zapcore.Encoder
	switch cfg.Format {
	case "json":
		encoder = zapcore.NewJSONEncoder(enc)
	case "console":
		encoder = zapcore.NewConsoleEncoder(enc)
	default:
		return nil, fmt.Errorf("make logger: unknown format %q", cfg.Format)
	}
	core := zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), level)
	core = zapcore.NewSamplerWithOptions(core, time.Second, sampleFirst, sampleThereafter)
	// A line that cannot be written must not end the daemon, so zap's own error is dropped
	// beside the lines it belongs to.
	return zap.New(core, zap.ErrorOutput(zapcore.Lock(os.Stderr))).With(zap.String("tool", tool)), nil
}
