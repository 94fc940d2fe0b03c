package obs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"canopy/shared/config"
)

const (
	livenessPath  = "/liveness"
	readinessPath = "/readiness"

	readTimeout  = 10 * time.Second
	writeTimeout = 30 * time.Second // pprof adds the time that a profile takes
	idleTimeout  = time.Minute
	stopTimeout  = 2 * time.Second

	maxHeaderBytes = 16 << 10
	maxBodyBytes   = 64 << 10
	maxConnections = 64

	// maxDebug bounds the requests below /debug that are under way. The runtime takes one
	// processor profile and one trace at a time by itself.
	maxDebug = 4

	// maxProfile bounds the time that who asks for a profile may choose.
	maxProfile = time.Minute
)

// Health serves /liveness, /readiness, /metrics and what lies below /debug/, on an address
// of its own. Listen and Run are called once each, in this order; every other method may be
// called from any goroutine at any time.
//
// All of it is for requests that name the server as it is known (RUNTIME__HEALTH__HOSTS),
// all but the probes for those that no other site's page has sent, and /debug for who has
// RUNTIME__HEALTH__DEBUG_TOKEN.
type Health struct {
	addr  string
	log   *zap.Logger
	mux   *http.ServeMux
	guard *guard
	ln    net.Listener

	scraping chan struct{} // has room for the scrape that is under way
	debugs   chan struct{} // has room for the requests below /debug that are under way

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
func NewHealth(cfg config.Health, reg *prometheus.Registry, log *zap.Logger) *Health {
	h := &Health{
		addr: cfg.BindAddr, log: log, mux: http.NewServeMux(), guard: newGuard(cfg, reg, log),
		scraping: make(chan struct{}, 1), debugs: make(chan struct{}, maxDebug),
		checks: make(map[string]func() error),
	}
	h.mux.HandleFunc("GET "+livenessPath, h.liveness)
	h.mux.HandleFunc("GET "+readinessPath, h.readiness)
	h.mux.Handle("GET /metrics", h.oneAtATime(promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorLog: zap.NewStdLog(log), ErrorHandling: promhttp.ContinueOnError, Registry: reg,
	})))
	h.HandleDebug("GET /debug/pprof/", http.HandlerFunc(pprof.Index))
	h.HandleDebug("GET /debug/pprof/cmdline", http.HandlerFunc(pprof.Cmdline))
	h.HandleDebug("GET /debug/pprof/profile", http.HandlerFunc(pprof.Profile))
	h.HandleDebug("GET /debug/pprof/symbol", http.HandlerFunc(pprof.Symbol))
	h.HandleDebug("POST /debug/pprof/symbol", http.HandlerFunc(pprof.Symbol))
	h.HandleDebug("GET /debug/pprof/trace", http.HandlerFunc(pprof.Trace))
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

// HandleDebug adds a handler for operators, by http.ServeMux's patterns. It panics if the
// pattern is taken, or does not lie below /debug/.
func (h *Health) HandleDebug(pattern string, handler http.Handler) {
	if !strings.Contains(pattern, "/debug/") {
		panic("not below /debug/: " + pattern)
	}
	h.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if ok, status, message := h.guard.opensDebug(r); !ok {
			h.guard.refuse(w, r, reasonToken, status, message)
			return
		}
		if !shortEnough(r) {
			http.Error(w, "seconds: expected at most "+strconv.Itoa(int(maxProfile.Seconds())), http.StatusBadRequest)
			return
		}
		select {
		case h.debugs <- struct{}{}:
			defer func() { <-h.debugs }()
			handler.ServeHTTP(w, r)
		default:
			h.guard.refuse(w, r, reasonBusy, http.StatusServiceUnavailable, "too many requests below /debug at a time")
		}
	})
}

// shortEnough looks at the time that a profile shall take, where the handler will look.
// What is no number gets the handler's default.
func shortEnough(r *http.Request) bool {
	if r.Method == http.MethodPost {
		return true // the body is the handler's, and no profile is taken by POST
	}
	seconds, err := strconv.ParseFloat(r.FormValue("seconds"), 64)
	return err != nil || seconds <= maxProfile.Seconds()
}

// Listen binds the address of the configuration; port 0 chooses a free one. Run must
// follow, or the address stays bound.
func (h *Health) Listen() error {
	ln, err := net.Listen("tcp", h.addr)
	if err != nil {
		return fmt.Errorf("listen for health: %w", err)
	}
	h.ln = ln
	tcp, ok := ln.Addr().(*net.TCPAddr)
	h.guard.local = ok && tcp.IP.IsLoopback()
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
	conns := newConnections(maxConnections)
	srv := &http.Server{
		Handler:           conns.handler(h),
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          zap.NewStdLog(h.log),
		ConnState:         conns.state,
		ConnContext:       conns.context,
		// Or OPTIONS * is answered to anybody.
		DisableGeneralOptionsHandler: true,
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

// ServeHTTP refuses what pages of other sites send, and hands on the rest.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
	r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
	probe := r.URL.Path == livenessPath || r.URL.Path == readinessPath
	switch {
	case !h.guard.knows(r.Host):
		h.guard.refuse(w, r, reasonHost, http.StatusMisdirectedRequest, unknownHost(r.Host))
	case !probe && fromPage(r):
		h.guard.refuse(w, r, reasonPage, http.StatusForbidden, "not for pages of other sites")
	default:
		h.mux.ServeHTTP(w, r)
	}
}

// oneAtATime lets a flood of requests cost one core at most. The answer is written
// when it is whole, so that nobody waits for a client that reads slowly.
func (h *Health) oneAtATime(handler http.Handler) http.Handler {
	collect := func(whole *answer, r *http.Request) bool {
		select {
		case h.scraping <- struct{}{}:
			defer func() { <-h.scraping }()
			handler.ServeHTTP(whole, r)
			return true
		case <-r.Context().Done():
			return false
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		whole := &answer{header: w.Header(), status: http.StatusOK}
		if collect(whole, r) {
			w.WriteHeader(whole.status)
			_, _ = w.Write(whole.body.Bytes()) // the client may be gone
		}
	})
}

// answer is one that is not written yet.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

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
