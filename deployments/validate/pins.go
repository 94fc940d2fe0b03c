package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var (
	from   = regexp.MustCompile(`(?mi)^FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?`)
	user   = regexp.MustCompile(`(?mi)^USER\s+(\S+)`)
	health = regexp.MustCompile(`(?mi)^HEALTHCHECK\s.*\bCMD\b`)

	uses   = regexp.MustCompile(`(?m)\buses:[ \t]*["']?([^\s"'#]+)["']?[ \t]*(#.*)?$`)
	commit = regexp.MustCompile(`@[0-9a-f]{40}$`)

	digest  = regexp.MustCompile(`@sha256:[0-9a-f]{64}$`)
	version = regexp.MustCompile(`^#\s*v[0-9]+\.[0-9]+\.[0-9]+`)
)

// pinned says whether an image has a tag that is not latest, or a digest.
func pinned(image string) bool {
	if strings.Contains(image, "@") {
		return digest.MatchString(image)
	}
	name := image[strings.LastIndex(image, "/")+1:] // a registry may have a port
	_, tag, tagged := strings.Cut(name, ":")
	return tagged && tag != "" && tag != "latest"
}

// root says whether a user of an image or of a service is root, or nobody knows.
func root(user string) bool {
	name, _, _ := strings.Cut(user, ":")
	return name == "" || name == "root" || strings.Trim(name, "0") == ""
}

// dockerfiles checks all of ours below dir: what they begin with, and what they end as.
func dockerfiles(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, ours, "Dockerfile*"))
	if err != nil {
		return fmt.Errorf("find Dockerfiles: %w", err)
	}
	var errs []error
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read Dockerfile: %w", err)
		}
		errs = append(errs, dockerfile(filepath.Base(path), string(text))...)
	}
	return errors.Join(errs...)
}

func dockerfile(name, text string) []error {
	var errs []error
	stages := []string{"scratch"}
	for _, f := range from.FindAllStringSubmatch(text, -1) {
		if !slices.Contains(stages, f[1]) && !pinned(f[1]) {
			errs = append(errs, fmt.Errorf("%s: image %q is not pinned", name, f[1]))
		}
		stages = append(stages, f[2])
	}
	users := user.FindAllStringSubmatch(text, -1)
	if len(users) == 0 || root(users[len(users)-1][1]) {
		errs = append(errs, fmt.Errorf("%s: runs as root", name))
	}
	if !health.MatchString(text) {
		errs = append(errs, fmt.Errorf("%s: no health check", name))
	}
	return errs
}

// workflows checks that what CI's steps use is named by its commit, with its version behind
// it: a tag may stand for something else tomorrow.
func workflows(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, ".github", "workflows", "*.y*ml"))
	if err != nil {
		return fmt.Errorf("find workflows: %w", err)
	}
	var errs []error
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read workflow: %w", err)
		}
		for _, u := range uses.FindAllStringSubmatch(string(text), -1) {
			switch {
			case strings.HasPrefix(u[1], "./"):
			case strings.HasPrefix(u[1], "docker://") && digest.MatchString(u[1]):
			case !commit.MatchString(u[1]):
				errs = append(errs, fmt.Errorf("%s: %s is not pinned to a commit", filepath.Base(path), u[1]))
			case !version.MatchString(u[2]):
				errs = append(errs, fmt.Errorf("%s: %s does not say which version it is", filepath.Base(path), u[1]))
			}
		}
	}
	return errors.Join(errs...)
}
