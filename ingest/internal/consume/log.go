package consume

import (
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

// kafkaLog passes franz-go's own log on. Its info is debug to an operator.
type kafkaLog struct{ log *zap.Logger }

// Level implements kgo.Logger.
func (l kafkaLog) Level() kgo.LogLevel {
	if l.log.Core().Enabled(zap.DebugLevel) {
		return kgo.LogLevelInfo
	}
	return kgo.LogLevelWarn
}

// Log implements kgo.Logger.
func (l kafkaLog) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	switch level {
	case kgo.LogLevelError:
		l.log.Sugar().Errorw(msg, keyvals...)
	case kgo.LogLevelWarn:
		l.log.Sugar().Warnw(msg, keyvals...)
	default:
		l.log.Sugar().Debugw(msg, keyvals...)
	}
}
