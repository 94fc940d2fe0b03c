//go:build linux

// Package e2e tests Canopy from end to end: records go into Kafka, through ingest, NATS
// and the edge, and are looked at where they come out, on sockets. Both tiers run as they
// are, on free ports.
//
// By default Kafka and NATS run inside the tests. CANOPY_TEST_KAFKA=host:port and
// CANOPY_TEST_NATS=nats://host:port name servers from outside instead; then topics,
// applications and the consumer group have names of their own in each test, and the
// streams become those of ingest with 4 shards. Tests that stop NATS use one of their own
// even then.
package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"canopy/edge/gateway"
	"canopy/ingest/bridge"
	"canopy/shared/config"
	"canopy/shared/obs"
)

const (
	childVariable = "CANOPY_E2E_CHILD"
	healthLine    = "health: "
	httpLine      = "http: "
)

// TestMain lets the test binary be an ingest, an edge or a server of its own, which can be
// killed.
func TestMain(m *testing.M) {
	kind := os.Getenv(childVariable)
	if kind == "" {
		os.Exit(m.Run())
	}
	if err := runChild(kind); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// runChild is what kind says until standard input ends, which it does with the parent at the
// latest.
func runChild(kind string) error {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // any end is an end
		cancel()
	}()
	switch kind {
	case brokerChild:
		return runBroker(ctx)
	case nodeChild:
		return runNode(ctx)
	}
	return runTier(ctx, kind)
}

func runTier(ctx context.Context, kind string) error {
	cfg, err := config.Read("", os.Environ())
	if err != nil {
		return err
	}
	log, err := obs.NewLogger(cfg.Runtime.Log, "canopy-"+kind)
	if err != nil {
		return err
	}
	if kind == edgeChild {
		return gateway.Run(ctx, cfg, log, func(at gateway.Addrs) {
			fmt.Println(httpLine + at.HTTP.String())
			fmt.Println(healthLine + at.Health.String())
		})
	}
	return bridge.Run(ctx, cfg, log, func(health net.Addr) { fmt.Println(healthLine + health.String()) })
}

// kinds of children
const (
	ingestChild = "ingest"
	edgeChild   = "edge"
	brokerChild = "broker" // Kafka
	nodeChild   = "node"   // of NATS
)

// process is a tier or a server in a process of its own.
type process struct {
	t      *testing.T
	kind   string
	cmd    *exec.Cmd
	stdin  io.Closer
	health string // address of it, of a node's monitoring, or of the broker
	http   string // of an edge

	mu   sync.Mutex
	said strings.Builder
}

// startProcess runs a tier or a server in a process of its own with the settings in environ, and
// returns when it has told its health address.
func startProcess(t *testing.T, kind string, environ []string) *process {
	t.Helper()
	p := &process{t: t, kind: kind, cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(append(os.Environ(), childVariable+"="+kind), environ...)
	p.cmd.Stderr = p
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.kill() })
	lines := bufio.NewScanner(stdout)
	for p.health == "" && lines.Scan() {
		if http, ok := strings.CutPrefix(lines.Text(), httpLine); ok {
			p.http = http
		}
		if health, ok := strings.CutPrefix(lines.Text(), healthLine); ok {
			p.health = health
		}
	}
	if p.health == "" {
		p.kill()
		t.Fatalf("%s did not start: %s", kind, p.text())
	}
	return p
}

// kill ends the process by SIGKILL and says whether it was running until then.
func (p *process) kill() bool {
	if p.cmd.ProcessState != nil {
		return false
	}
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Errorf("kill %s: %v", p.kind, err)
	}
	_ = p.cmd.Wait() // its error is the signal that ended it
	_ = p.stdin.Close()
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	killed := ok && status.Signaled() && status.Signal() == syscall.SIGKILL
	if !killed {
		p.t.Errorf("%s had ended by itself (%v): %s", p.kind, p.cmd.ProcessState, p.text())
	}
	return killed
}

// Write takes what the process logs.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.Write(b)
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.String()
}
