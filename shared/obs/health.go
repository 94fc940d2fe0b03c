package obs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

const (
	readTimeout = 10 * time.Second
	idleTimeout = time.Minute
	stopTimeout = 2 * time.Second

	// A CPU profile writes its answer when its time is over, and the client chooses that
	// time, up to this.
	writeTimeout = 5 * time.Minute

	maxHeaderBytes = 16 << 10
)

// Health serves /liveness, /readiness, /metrics and /debug/pprof/ on an address of its own.
// Listen and Run are called once each, in this order; every other method may be called
// from any goroutine at any time.
type Health struct {
	log *zap.Logger
	mux *http.ServeMux
	ln  net.Listener

	ready atomic.Bool

	mu     sync.Mutex
	checks map[string]func() error
}

// result is the JSON of a probe's answer, and of each check in it.
type result struct {
	Success bool              `json:"success"`
	Error   string            `json:"error,omitempty"`
	Checks  map[string]result `json:"checks,omitempty"`
}

// NewHealth makes a server that is alive and not ready. /metrics shows what is in reg.
func NewHealth(reg *prometheus.Registry, log *zap.Logger) *Health {
	h := &Health{log: log, mux: http.NewServeMux(), checks: make(map[string]func() error)}
	h.mux.HandleFunc("GET /liveness", h.liveness)
	h.mux.HandleFunc("GET /readiness", h.readiness)
	h.mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorLog: zap.NewStdLog(log), ErrorHandling: promhttp.ContinueOnError, Registry: reg,
	}))
	h.mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	h.mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	h.mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	h.mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	h.mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	h.mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return h
}

// AddCheck makes readiness depend on check, which is called at every probe and must be
// cheap. A later check of the same name replaces the earlier one. The text of its error
// is shown to whoever can reach the health address.
func (h *Health) AddCheck(name string, check func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks[name] = check
}

// SetReady is the switch above all checks; it starts off.
func (h *Health) SetReady(ready bool) { h.ready.Store(ready) }

// Handle adds a handler, by http.ServeMux's patterns. It panics if the pattern is taken.
func (h *Health) Handle(pattern string, handler http.Handler) { h.mux.Handle(pattern, handler) }

// Listen binds addr, host:port; port 0 chooses a free one. Run must follow, or the address
// stays bound.
func (h *Health) Listen(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for health: %w", err)
	}
	h.ln = ln
	return nil
}

// Addr is the address that Listen bound, nil before.
func (h *Health) Addr() net.Addr {
	if h.ln == nil {
		return nil
	}
	return h.ln.Addr()
}

// Run serves until ctx ends, then lets requests finish for 2 s. It returns nil after a stop
// by ctx. Probes are answered while a daemon drains if ctx is one that ends after the drain.
func (h *Health) Run(ctx context.Context) error {
	if h.ln == nil {
		return errors.New("serve health: Listen was not called")
	}
	srv := &http.Server{
		Handler:           h.mux,
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          zap.NewStdLog(h.log),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(h.ln) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve health: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		// Somebody is taking a profile; the daemon does not wait for it.
		_ = srv.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve health: %w", err)
	}
	return nil
}

func (h *Health) liveness(w http.ResponseWriter, _ *http.Request) {
	h.answer(w, result{Success: true})
}

func (h *Health) readiness(w http.ResponseWriter, _ *http.Request) {
	all := result{Success: h.ready.Load(), Checks: make(map[string]result)}
	if !all.Success {
		all.Error = "not started yet, or draining"
	}
	for name, check := range h.copyChecks() {
		if err := check(); err != nil {
			all.Success = false
			all.Checks[name] = result{Error: err.Error()}
		} else {
			all.Checks[name] = result{Success: true}
		}
	}
	h.answer(w, all)
}

// copyChecks lets checks run without the lock: they are not ours.
func (h *Health) copyChecks() map[string]func() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	checks := make(map[string]func() error, len(h.checks))
	for name, check := range h.checks {
		checks[name] = check
	}
	return checks
}

func (h *Health) answer(w http.ResponseWriter, r result) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !r.Success {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if err := json.NewEncoder(w).Encode(r); err != nil {
		h.log.Debug("write answer of a probe", zap.Error(err))
	}
}
