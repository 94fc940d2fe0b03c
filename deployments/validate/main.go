// Command validate checks docker-compose.yml without Docker: its schema, strictly, and that
// every setting it gives to one of our own services is one that they know.
//
//	bin/canopy-local --help | go run . ../../docker-compose.yml
//
// It is a module of its own, so that Canopy does not depend on compose's.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// ours is how the path of a Dockerfile of our own begins.
const ours = "deployments/docker/"

var (
	settingName = regexp.MustCompile(`\b[A-Z][A-Z_]*?__[A-Z0-9_<>]+`)
	number      = regexp.MustCompile(`__[0-9]+__`)
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: canopy-local --help | validate FILE")
		os.Exit(2)
	}
	if err := run(context.Background(), os.Args[1], os.Stdin); err != nil {
		fmt.Fprintf(os.Stderr, "validate %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// run checks the file at path. help holds the names of all settings.
func run(ctx context.Context, path string, help io.Reader) error {
	text, err := io.ReadAll(help)
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	known := settingName.FindAllString(string(text), -1)
	if len(known) == 0 {
		return errors.New("no settings on standard input")
	}
	project, err := load(ctx, path)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(project.Services)) {
		errs = append(errs, check(project.Services[name], known)...)
	}
	return errors.Join(errs...)
}

// load reads the file with all its profiles and refuses what the schema does not have.
func load(ctx context.Context, path string) (*types.Project, error) {
	options, err := cli.NewProjectOptions([]string{path},
		cli.WithProfiles([]string{"*"}), cli.WithInterpolation(true), cli.WithConsistency(true))
	if err != nil {
		return nil, err
	}
	return options.LoadProject(ctx)
}

// check looks at one service.
func check(s types.ServiceConfig, known []string) []error {
	var errs []error
	add := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("service %s: "+format, append([]any{s.Name}, args...)...))
	}
	for _, v := range s.Volumes {
		if v.Type != types.VolumeTypeBind {
			continue
		}
		if _, err := os.Stat(v.Source); err != nil {
			add("mounts what is not there: %w", err)
		}
	}
	if s.Build == nil {
		if !strings.Contains(s.Image, ":") || strings.HasSuffix(s.Image, ":latest") {
			add("image %q is not pinned", s.Image)
		}
		return errs
	}
	if !strings.HasPrefix(s.Build.Dockerfile, ours) {
		add("Dockerfile %q is not below %s", s.Build.Dockerfile, ours)
	}
	if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
		add("is built from what is not there: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Environment)) {
		if !slices.Contains(known, number.ReplaceAllString(name, "__<N>__")) {
			add("unknown setting %s", name)
		}
	}
	return errs
}
