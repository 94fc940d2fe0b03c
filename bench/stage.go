//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"canopy/bench/drain"
	"canopy/bench/floor"
	"canopy/bench/load"
	"canopy/bench/under"
)

const openPatience = 3 * time.Minute

// stage is everything that runs while rows are measured.
type stage struct {
	opts   options
	access string // the applications file; empty is one public application
	dir    string // temporary
	nats   *under.NATS
	conn   *nats.Conn
	stream *load.Stream
	edge   *under.Edge
	floor  *floor.Process
	crews  []*drain.Crew
}

// open starts NATS and the edge of opts.edge, without sockets. settings are the edge's,
// beside what every row needs.
func (s *stage) open(ctx context.Context, settings ...string) (err error) {
	if s.dir, err = os.MkdirTemp("", "canopy-bench-"); err != nil {
		return fmt.Errorf("make temporary folder: %w", err)
	}
	if s.nats, err = under.StartNATS(filepath.Join(s.dir, "streams")); err != nil {
		return err
	}
	if s.conn, err = nats.Connect(s.nats.URL(), nats.Name("canopy-bench")); err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	if s.stream, err = load.OpenStream(ctx, s.conn, load.Application, s.opts.size); err != nil {
		return err
	}
	s.edge, err = s.startEdge(ctx, s.dir, settings...)
	return err
}

// startEdge starts an edge whose files are in dir.
func (s *stage) startEdge(ctx context.Context, dir string, settings ...string) (*under.Edge, error) {
	return under.StartEdge(ctx, under.EdgeConfig{
		Program: s.opts.edge, NATS: s.nats.URL(), Dir: dir, Applications: s.access,
		// The floor sends no pings: neither must the edge while the two are compared.
		Env: append([]string{"EDGE__PING__INTERVAL=1h", "RUNTIME__LOG__LEVEL=warn"}, settings...),
	})
}

// build builds bin/canopy-NAME from the sources of this module, as the images are built: by
// the profile of `make profiles`.
func build(ctx context.Context, name string) (string, error) {
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(mod)))
	program := filepath.Join(root, "bin", "canopy-"+name)
	progress("building %s", program)
	compiler := exec.CommandContext(ctx, "go", "build", "-pgo", name+"/profile.pgo", "-o", program, "./"+name)
	compiler.Dir = root
	if out, err := compiler.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return program, nil
}

// openSockets opens sockets at url that are read until the stage closes.
func (s *stage) openSockets(url string, sockets int) (*drain.Crew, error) {
	return s.openSocketsFrom(url, sockets, 1)
}

// openSocketsFrom is openSockets where first is the number of the event that comes next.
func (s *stage) openSocketsFrom(url string, sockets int, first uint64) (*drain.Crew, error) {
	start := time.Now()
	crew, err := drain.Start(drain.Config{URL: url, Sockets: sockets, First: first}, s.opts.clients, openPatience)
	if err != nil {
		return nil, err
	}
	s.crews = append(s.crews, crew)
	progress("%d sockets open at %s after %s", sockets, url, time.Since(start).Round(time.Millisecond))
	return crew, nil
}

// openFloor starts the floor with its sockets.
func (s *stage) openFloor() (*drain.Crew, error) {
	var err error
	if s.floor, err = floor.Start(s.opts.size); err != nil {
		return nil, err
	}
	crew, err := s.openSockets(s.floor.URL(), s.opts.sockets)
	if err != nil {
		return nil, err
	}
	return crew, s.floor.Opened(s.opts.sockets, openPatience)
}

// closeClients ends all sockets.
func (s *stage) closeClients() error {
	var errs []error
	for _, crew := range s.crews {
		errs = append(errs, crew.Stop())
	}
	s.crews = nil
	return errors.Join(errs...)
}

// close ends everything, clients first.
func (s *stage) close() error {
	errs := []error{s.closeClients()}
	if s.floor != nil {
		errs = append(errs, s.floor.Stop())
	}
	if s.edge != nil {
		errs = append(errs, s.edge.Stop())
	}
	if s.conn != nil {
		s.conn.Close()
	}
	if s.nats != nil {
		errs = append(errs, s.nats.Stop())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}

// progress tells whoever waits what goes on.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", args...)
}
