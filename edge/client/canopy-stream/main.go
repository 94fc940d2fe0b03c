// Command canopy-stream prints the events of an application.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"canopy/edge/client"
)

const tool = "canopy-stream"

// Exit codes, as --help tells them.
const (
	exitOK          = 0
	exitEnded       = 1
	exitUsage       = 2
	exitForbidden   = 3
	exitNotFound    = 4
	exitInterrupted = 130
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main with its surroundings handed in; the environment is kong's to read.
func run(ctx context.Context, args []string, in io.Reader, out, report io.Writer) (status int) {
	var cli commandLine
	done, err := cli.parse(args, out)
	if done {
		return exitOK
	}
	var cfg client.Config
	if err == nil {
		cfg, err = cli.config(in)
	}
	if err != nil {
		say(report, "%v", err)
		return exitUsage
	}
	p := newPrinter(out, cli.style(out), cli.colours(out))
	if !cli.Quiet {
		announce(&cfg, report)
	}
	return stream(ctx, cfg, cli.Count, p, report)
}

// stream prints events until there were enough.
func stream(ctx context.Context, cfg client.Config, count int, p *printer, report io.Writer) (status int) {
	left := count
	for e, err := range client.Events(ctx, cfg) {
		if err != nil {
			say(report, "%v", err)
			return statusOf(err)
		}
		if err := p.print(e); err != nil {
			say(report, "write event: %v", err)
			return exitEnded
		}
		if e.Gap != nil {
			say(report, "events may be missing (%s): %s", e.Gap.Reason, e.Gap.Message)
			continue
		}
		if left--; left == 0 {
			return exitOK
		}
	}
	if count > 0 {
		return exitInterrupted
	}
	return exitOK
}

// announce tells about connections on standard error.
func announce(cfg *client.Config, to io.Writer) {
	again := false
	cfg.OnOpen = func() {
		if again {
			say(to, "connected again")
		}
		again = true
	}
	cfg.OnWait = func(err error, delay time.Duration) {
		say(to, "%v; again in %v", err, delay.Round(100*time.Millisecond))
	}
}

// statusOf is the exit code for the end of a stream.
func statusOf(err error) int {
	var refused *client.RefusedError
	if !errors.As(err, &refused) {
		if errors.Is(err, client.ErrConfig) {
			return exitUsage
		}
		return exitEnded
	}
	switch refused.Status {
	case http.StatusBadRequest:
		return exitUsage
	case http.StatusForbidden:
		return exitForbidden
	case http.StatusNotFound:
		return exitNotFound
	}
	return exitEnded
}

func say(to io.Writer, format string, args ...any) {
	_, _ = fmt.Fprintf(to, tool+": "+format+"\n", args...) // nowhere is left to report to
}
