// Package launch starts the built local stack as a user would, at free ports, for programs
// that try it out.
package launch

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	startLimit = 10 * time.Second
	stopLimit  = 2 * time.Second

	binary = "bin/canopy-local"
)

// Stack is a running canopy-local.
type Stack struct {
	*Process
	// Edge, Health, Kafka and Issuer are addresses, host:port.
	Edge, Health, Kafka, Issuer string
	// Printed are the lines that it printed when it was up, without white space around
	// them.
	Printed []string
}

// Local starts canopy-local and waits until it is up. Whoever calls it stops it.
func Local(ctx context.Context) (*Stack, error) {
	addrs, err := freeAddrs(5)
	if err != nil {
		return nil, err
	}
	s := &Stack{Edge: addrs[0], Health: addrs[1], Kafka: addrs[2], Issuer: addrs[4]}
	cmd := exec.CommandContext(ctx, binary)
	cmd.Env = append(os.Environ(),
		"HTTP__BIND_ADDR="+s.Edge, "RUNTIME__HEALTH__BIND_ADDR="+s.Health,
		"LOCAL__KAFKA_ADDR="+s.Kafka, "LOCAL__NATS_ADDR="+addrs[3], "LOCAL__ISSUER_ADDR="+s.Issuer)
	reader, writer := io.Pipe()
	if s.Process, err = Start(cmd, writer); err != nil {
		return nil, err
	}
	up := make(chan []string, 1)
	go func() {
		var lines []string
		for scanner := bufio.NewScanner(reader); scanner.Scan(); {
			line := strings.TrimSpace(scanner.Text())
			if lines = append(lines, line); strings.HasPrefix(line, "Ctrl-C") {
				up <- lines
				break
			}
		}
		// What nobody reads would block the stack.
		_, _ = io.Copy(io.Discard, reader)
	}()
	select {
	case s.Printed = <-up:
		return s, nil
	case <-s.done:
		return nil, fmt.Errorf("the stack ended while it started: %w", s.err)
	case <-time.After(startLimit):
		return nil, errors.Join(fmt.Errorf("the stack was not up within %v", startLimit), s.Stop())
	}
}

// Stop ends the stack as Ctrl-C does, and wants a clean end soon.
func (s *Stack) Stop() error { return s.Process.Stop(stopLimit) }

// Process is a program that was started.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; read only after done
}

// Start starts a program whose errors are shown, and whose output goes to out unless that is
// nil. It closes out when the program has ended.
func Start(cmd *exec.Cmd, out *io.PipeWriter) (*Process, error) {
	cmd.Stderr = os.Stderr
	if out != nil {
		cmd.Stdout = out
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		if out != nil {
			_ = out.Close() // a pipe in memory
		}
		close(p.done)
	}()
	return p, nil
}

// Stop sends what Ctrl-C sends and wants a clean end within limit.
func (p *Process) Stop(limit time.Duration) error {
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return fmt.Errorf("stop %v: %w (%w)", p.cmd.Args, err, p.err)
	}
	select {
	case <-p.done:
	case <-time.After(limit):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%v did not stop within %v", p.cmd.Args, limit)
	}
	if p.err != nil {
		return fmt.Errorf("%v did not end cleanly: %w", p.cmd.Args, p.err)
	}
	return nil
}

// freeAddrs finds n addresses that nobody listens at.
func freeAddrs(n int) ([]string, error) {
	addrs := make([]string, n)
	for i := range addrs {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer func() { _ = ln.Close() }()
		addrs[i] = ln.Addr().String()
	}
	return addrs, nil
}
