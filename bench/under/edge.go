//go:build linux

package under

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"canopy/bench/load"
	"canopy/bench/usage"
)

const settleFor = 15 * time.Second

// Edge is a running canopy-edge.
type Edge struct {
	*service
	http string
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
	s, err := startService(ctx, "edge", cfg.Program, cfg.Dir, addrs[1], append([]string{
		"HTTP__BIND_ADDR=" + addrs[0], "HTTP__DISABLE_TLS=true", "NATS__URL=" + cfg.NATS,
		"EDGE__APPLICATIONS_FILE=" + applications, "EDGE__DRAIN=1s",
		"EDGE__LIMITS__HALF_OPEN_PER_ADDRESS=0", // all clients of a bench have one address
	}, cfg.Env...))
	if err != nil {
		return nil, err
	}
	return &Edge{s, addrs[0]}, nil
}

// URLOf is where sockets of an application are opened.
func (e *Edge) URLOf(application string) string { return "ws://" + e.http + "/" + application }

// URL is where sockets of load.Application are opened.
func (e *Edge) URL() string { return e.URLOf(load.Application) }

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
	m.Resident, err = Settled(ctx, e.PID())
	return m, err
}

// Settled is the resident memory of pid once it has not shrunk for two seconds: Go's
// scavenger gives pages back little by little.
func Settled(ctx context.Context, pid int) (int64, error) {
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
