package ws

import (
	"fmt"
	"strings"
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

// Debug drops the line, but hears in it that a poller begins. nbio has no other sign of
// that, and an engine that is stopped before its pollers run never ends: each of them
// clears the order to stop when it begins.
func (l *nbioLog) Debug(format string, v ...any) {
	if e := l.engine(v); e != nil && strings.HasSuffix(format, "] start") {
		e.starting.Done()
	}
}

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
