// Command smoke starts the built local stack as a user would, waits for an event of the
// public application at a socket, starts one more edge and one more ingest by the lines
// that the stack prints, waits for an event there too, and stops everything by Ctrl-C's
// signal. It fails if anything on this way does.
//
//	make build && go run ./deployments/smoke
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"canopy/deployments/launch"
)

const (
	startLimit = 10 * time.Second
	eventLimit = 10 * time.Second
	// tierStopLimit is longer than the stack's, since a tier by itself drains for as long
	// as it is configured to.
	tierStopLimit = 30 * time.Second
	pollEvery     = 20 * time.Millisecond

	path = "/drogue-public-temperature"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "smoke: %v\n", err)
		os.Exit(1)
	}
}

// run is the whole way; its lines are the report.
func run(ctx context.Context) (err error) {
	began := time.Now()
	local, err := launch.Local(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopped(local.Stop)) }()
	fmt.Printf("smoke: the stack is up after %v\n", time.Since(began).Round(time.Millisecond))
	if err := firstEvent(ctx, local.Edge); err != nil {
		return fmt.Errorf("edge of the stack: %w", err)
	}
	lines := slices.DeleteFunc(local.Printed, func(line string) bool {
		return !strings.HasSuffix(line, "bin/canopy-edge") && !strings.HasSuffix(line, "bin/canopy-ingest")
	})
	if len(lines) != 2 {
		return fmt.Errorf("the stack printed %d lines for more processes, want 2", len(lines))
	}
	for _, line := range lines {
		// exec, so that the signal reaches the program and not the shell.
		at := strings.LastIndex(line, " ") + 1
		extra, err := launch.Start(exec.CommandContext(ctx, "sh", "-c", line[:at]+"exec "+line[at:]), nil)
		if err != nil {
			return err
		}
		defer func() {
			err = errors.Join(err, stopped(func() error { return extra.Stop(tierStopLimit) }))
		}()
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

// stopped says how long it took to stop.
func stopped(stop func() error) error {
	began := time.Now()
	if err := stop(); err != nil {
		return err
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
