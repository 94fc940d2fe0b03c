package ws

import (
	"fmt"
	"sync"

	"github.com/lesismal/nbio/logging"
	"go.uber.org/zap"
)

// nbioLog is the logger of every nbio engine in this process: nbio has one for all. Each
// of its lines names its engine first, and so finds that engine's log.
type nbioLog struct {
	engines sync.Map // nbio's name → *Engine
}

var nbioLines = sync.OnceValue(func() *nbioLog {
	l := &nbioLog{}
	logging.SetLogger(l)
	return l
})

// routeLog sends nbio's lines about e to e's log.
func routeLog(e *Engine) { nbioLines().engines.Store(e.name, e) }

// unrouteLog ends what routeLog began.
func unrouteLog(e *Engine) { nbioLines().engines.Delete(e.name) }

// engine finds the engine that a line is about.
func (l *nbioLog) engine(v []any) *Engine {
	if len(v) > 0 {
		if e, ok := l.engines.Load(v[0]); ok {
			return e.(*Engine)
		}
	}
	return nil
}

// Debug drops the line.
func (l *nbioLog) Debug(string, ...any) {}

// Info drops the line: that nbio starts and stops is no news.
func (l *nbioLog) Info(string, ...any) {}

// Warn logs the line.
func (l *nbioLog) Warn(format string, v ...any) {
	if e := l.engine(v); e != nil {
		e.config.Log.Warn("nbio", zap.String("line", fmt.Sprintf(format, v...)))
	}
}

// Error logs the line.
func (l *nbioLog) Error(format string, v ...any) {
	if e := l.engine(v); e != nil {
		e.config.Log.Error("nbio", zap.String("line", fmt.Sprintf(format, v...)))
	}
}
