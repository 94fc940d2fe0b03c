//go:build linux

package under

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"canopy/bench/load"
	"canopy/bench/usage"
)

const (
	edgePatience = 30 * time.Second
	settleFor    = 15 * time.Second
	logTail      = 2 << 10
)

// Edge is a running canopy-edge.
type Edge struct {
	cmd    *exec.Cmd
	http   string
	health string
	log    string
	ended  chan struct{}
	result error // of the process, once ended is closed
}

// EdgeConfig says which edge is started.
type EdgeConfig struct {
	Program string // path of canopy-edge
	NATS    string // URL
	Dir     string // an empty folder for its files
	Env     []string

	// Applications is the applications file; empty means Public(load.Application).
	Applications string
}

// Public is an applications file in which everybody may read each of applications.
func Public(applications ...string) string {
	text := "applications:\n"
	for _, name := range applications {
		text += "  " + name + ":\n    public: true\n"
	}
	return text
}

// StartEdge starts an edge and returns when it is ready. Its log is edge.log in cfg.Dir.
func StartEdge(ctx context.Context, cfg EdgeConfig) (*Edge, error) {
	applications, text := filepath.Join(cfg.Dir, "applications.yaml"), cfg.Applications
	if text == "" {
		text = Public(load.Application)
	}
	if err := os.WriteFile(applications, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write applications file: %w", err)
	}
	addrs, err := freeAddrs(2)
	if err != nil {
		return nil, err
	}
	e := &Edge{
		cmd: exec.Command(cfg.Program), http: addrs[0], health: addrs[1],
		log: filepath.Join(cfg.Dir, "edge.log"), ended: make(chan struct{}),
	}
	log, err := os.Create(e.log)
	if err != nil {
		return nil, fmt.Errorf("make edge's log: %w", err)
	}
	defer func() { _ = log.Close() }() // the process has its own descriptor
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"),
		"HTTP__BIND_ADDR=" + e.http, "HTTP__DISABLE_TLS=true", "RUNTIME__HEALTH__BIND_ADDR=" + e.health,
		"NATS__URL=" + cfg.NATS, "EDGE__APPLICATIONS_FILE=" + applications, "EDGE__DRAIN=1s",
	}, cfg.Env...)
	if err := e.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start edge: %w", err)
	}
	go func() {
		e.result = e.cmd.Wait()
		close(e.ended)
	}()
	if err := e.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, e.Stop())
	}
	return e, nil
}

// freeAddrs gives n addresses of 127.0.0.1 that nobody listens at.
func freeAddrs(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer func() { _ = l.Close() }() // together, so that no port comes twice
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

func (e *Edge) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, edgePatience)
	defer cancel()
	for {
		_, err := e.get(ctx, "/readiness")
		if err == nil {
			return nil
		}
		select {
		case <-e.ended:
			return fmt.Errorf("start edge: it ended: %w\n%s", e.result, e.tail())
		case <-ctx.Done():
			return fmt.Errorf("start edge: not ready: %w\n%s", err, e.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (e *Edge) tail() []byte {
	b, err := os.ReadFile(e.log)
	if err != nil {
		return []byte(err.Error())
	}
	return b[max(0, len(b)-logTail):]
}

func (e *Edge) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.health+path, nil)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %.200s", resp.StatusCode, body)
	}
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	return body, nil
}

// URL is where sockets of load.Application are opened.
func (e *Edge) URL() string { return "ws://" + e.http + "/" + load.Application }

// PID is the process's number.
func (e *Edge) PID() int { return e.cmd.Process.Pid }

// Memory is what an edge uses, in bytes.
type Memory struct {
	Resident  int64 // memory of the process, everything counted except the kernel's buffers
	HeapInUse int64 // pages with live Go objects
	Stacks    int64 // of goroutines
}

// Memory collects garbage, waits up to 15 seconds until the resident memory no longer
// shrinks, and reads it.
func (e *Edge) Memory(ctx context.Context) (Memory, error) {
	profile, err := e.get(ctx, "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return Memory{}, err
	}
	var m Memory
	for name, field := range map[string]*int64{"# HeapInuse = ": &m.HeapInUse, "# Stack = ": &m.Stacks} {
		_, rest, _ := bytes.Cut(profile, []byte(name))
		digits := rest[:max(0, bytes.IndexAny(rest, " \n"))]
		if *field, err = strconv.ParseInt(string(digits), 10, 64); err != nil {
			return Memory{}, fmt.Errorf("read heap profile: %q: %w", name, err)
		}
	}
	m.Resident, err = settled(ctx, e.PID())
	return m, err
}

// settled is the resident memory of pid once it has not shrunk for two seconds: Go's
// scavenger gives pages back little by little.
func settled(ctx context.Context, pid int) (int64, error) {
	const step, calm = 250 * time.Millisecond, 8
	lowest, err := usage.Resident(pid)
	for same, end := 0, time.Now().Add(settleFor); err == nil && same < calm && time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(step):
		}
		var now int64
		now, err = usage.Resident(pid)
		same++
		if now < lowest-lowest/1000 {
			same = 0
		}
		lowest = min(lowest, now)
	}
	return lowest, err
}

// Stop drains the edge. After 30 seconds it kills it, which is an error.
func (e *Edge) Stop() error {
	_ = e.cmd.Process.Signal(unix.SIGTERM) // fails only if it has ended
	watch := time.AfterFunc(edgePatience, func() { _ = e.cmd.Process.Kill() })
	defer watch.Stop()
	<-e.ended
	if e.result != nil {
		return fmt.Errorf("stop edge: %w\n%s", e.result, e.tail())
	}
	return nil
}
