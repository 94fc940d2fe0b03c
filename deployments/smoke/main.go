// Command smoke starts the built local stack as a user would, waits for an event of the
// public application at a socket, starts one more edge and one more ingest by the lines
// that the stack prints, waits for an event there too, and stops everything by Ctrl-C's
// signal. It fails if anything on this way does.
//
//	make build && go run ./deployments/smoke
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/coder/websocket"
)

const (
	startLimit = 10 * time.Second
	eventLimit = 10 * time.Second
	stopLimit  = 2 * time.Second
	pollEvery  = 20 * time.Millisecond

	stack = "bin/canopy-local"
	path  = "/drogue-public-temperature"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "smoke: %v\n", err)
		os.Exit(1)
	}
}

// run is the whole way; its lines are the report.
func run(ctx context.Context) (err error) {
	addrs, err := freeAddrs(5)
	if err != nil {
		return err
	}
	began := time.Now()
	local, printed, err := startStack(ctx, addrs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, local.stop()) }()
	fmt.Printf("smoke: the stack is up after %v\n", time.Since(began).Round(time.Millisecond))
	if err := firstEvent(ctx, addrs[0]); err != nil {
		return fmt.Errorf("edge of the stack: %w", err)
	}
	for _, line := range printed {
		// exec, so that the signal reaches the program and not the shell.
		at := strings.LastIndex(line, " ") + 1
		extra, err := start(exec.CommandContext(ctx, "sh", "-c", line[:at]+"exec "+line[at:]), nil)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, extra.stop()) }()
		if err := ready(ctx, setting(line, "RUNTIME__HEALTH__BIND_ADDR")); err != nil {
			return fmt.Errorf("%s: %w", line[at:], err)
		}
		if addr := setting(line, "HTTP__BIND_ADDR"); addr != "" {
			if err := firstEvent(ctx, addr); err != nil {
				return fmt.Errorf("%s: %w", line[at:], err)
			}
		}
		fmt.Printf("smoke: %s joined\n", line[at:])
	}
	return nil
}

// startStack starts canopy-local at addrs and gives the two lines that it prints for more
// processes.
func startStack(ctx context.Context, addrs []string) (*process, []string, error) {
	cmd := exec.CommandContext(ctx, stack)
	cmd.Env = append(os.Environ(),
		"HTTP__BIND_ADDR="+addrs[0], "RUNTIME__HEALTH__BIND_ADDR="+addrs[1],
		"LOCAL__KAFKA_ADDR="+addrs[2], "LOCAL__NATS_ADDR="+addrs[3], "LOCAL__ISSUER_ADDR="+addrs[4])
	reader, writer := io.Pipe()
	local, err := start(cmd, writer)
	if err != nil {
		return nil, nil, err
	}
	found := make(chan []string, 1)
	go func() {
		var lines []string
		for scanner := bufio.NewScanner(reader); scanner.Scan(); {
			line := strings.TrimSpace(scanner.Text())
			if strings.HasSuffix(line, "bin/canopy-edge") || strings.HasSuffix(line, "bin/canopy-ingest") {
				lines = append(lines, line)
			}
			if strings.HasPrefix(line, "Ctrl-C") {
				found <- lines
			}
		}
		// What comes after a line that is too long would block the stack.
		_, _ = io.Copy(io.Discard, reader)
	}()
	select {
	case lines := <-found:
		if len(lines) == 2 {
			return local, lines, nil
		}
		err = fmt.Errorf("the stack printed %d lines for more processes, want 2", len(lines))
	case <-local.done:
		return nil, nil, fmt.Errorf("the stack ended while it started: %w", local.err)
	case <-time.After(startLimit):
		err = fmt.Errorf("the stack was not up within %v", startLimit)
	}
	return nil, nil, errors.Join(err, local.stop())
}

// process is a program that was started.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; read only after done
}

func start(cmd *exec.Cmd, out *io.PipeWriter) (*process, error) {
	cmd.Stderr = os.Stderr
	if out != nil {
		cmd.Stdout = out
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		if out != nil {
			_ = out.Close() // a pipe in memory
		}
		close(p.done)
	}()
	return p, nil
}

// stop sends what Ctrl-C sends and wants a clean end soon.
func (p *process) stop() error {
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return fmt.Errorf("stop %v: %w (%w)", p.cmd.Args, err, p.err)
	}
	limit := stopLimit
	if p.cmd.Args[0] != stack {
		limit = 30 * time.Second // a tier by itself drains for as long as it is configured to
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
	fmt.Printf("smoke: stopped after %v\n", time.Since(began).Round(time.Millisecond))
	return nil
}

// firstEvent waits for an event with a cursor at a socket of the edge at addr.
func firstEvent(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, eventLimit)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws://"+addr+path, nil)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	_, event, err := conn.Read(ctx)
	if err != nil {
		return fmt.Errorf("wait for an event: %w", err)
	}
	if !strings.Contains(string(event), `"cursor":"`) {
		return fmt.Errorf("an event without a cursor: %.300s", event)
	}
	fmt.Printf("smoke: %s\n", event)
	return conn.Close(websocket.StatusNormalClosure, "")
}

// ready waits until the health address says that a daemon is ready.
func ready(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readiness", nil)
		if err != nil {
			return fmt.Errorf("ask for readiness: %w", err)
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready within %v", startLimit)
		case <-time.After(pollEvery):
		}
	}
}

// setting finds NAME=value among the words of a line.
func setting(line, name string) string {
	for _, word := range strings.Fields(line) {
		if value, ok := strings.CutPrefix(word, name+"="); ok {
			return value
		}
	}
	return ""
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
