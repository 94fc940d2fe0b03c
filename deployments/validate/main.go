// Command validate checks docker-compose.yml without Docker: its schema, strictly, that every
// setting it gives to one of our own services is one that they know, and that no service runs
// as root, without a limit of its memory or without a health check. So it does the Dockerfiles
// beside it, and that images and CI's actions are pinned.
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

// runtimes are the settings of Go itself.
var runtimes = []string{"GOGC", "GOMAXPROCS", "GOMEMLIMIT"}

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
		s := project.Services[name]
		errs = append(errs, check(s, known)...)
		errs = append(errs, bounds(s, ends(project, name))...)
	}
	dir := filepath.Dir(path)
	errs = append(errs, dockerfiles(dir), workflows(dir))
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
		if !pinned(s.Image) {
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
		if !slices.Contains(runtimes, name) && !slices.Contains(known, number.ReplaceAllString(name, "__<N>__")) {
			add("unknown setting %s", name)
		}
	}
	return errs
}

// ends says whether others wait until the service has done its work and is gone.
func ends(project *types.Project, name string) bool {
	for _, s := range project.Services {
		if s.DependsOn[name].Condition == types.ServiceConditionCompletedSuccessfully {
			return true
		}
	}
	return false
}

// bounds looks at what a service may do to the others and to the machine. One that ends
// may be root, if it reaches nobody, and needs no health check.
func bounds(s types.ServiceConfig, ends bool) []error {
	var errs []error
	add := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("service %s: "+format, append([]any{s.Name}, args...)...))
	}
	if !slices.Contains(s.CapDrop, "ALL") {
		add("keeps capabilities: expected cap_drop: [ALL]")
	}
	if alone := ends && s.NetworkMode == "none" && s.ReadOnly; root(s.User) && !alone {
		add("runs as root: expected user")
	}
	if s.MemLimit <= 0 && (s.Deploy == nil || s.Deploy.Resources.Limits == nil || s.Deploy.Resources.Limits.MemoryBytes <= 0) {
		add("may take all memory: expected mem_limit")
	}
	if c := s.HealthCheck; !ends && (c == nil || c.Disable || len(c.Test) == 0 || c.Test[0] == "NONE") {
		add("has no health check")
	}
	for _, on := range slices.Sorted(maps.Keys(s.DependsOn)) {
		if s.DependsOn[on].Condition == types.ServiceConditionStarted {
			add("waits only until %s is started: expected condition: service_healthy", on)
		}
	}
	return errs
}
