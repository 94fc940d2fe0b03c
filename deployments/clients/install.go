package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	websocatVersion = "1.14.1"
	drgVersion      = "0.11.0"

	// cache keeps what is installed, so that a second run is quick.
	cache = "bin/clients"

	pythonExample = "edge/client/examples/python"
	rustExample   = "edge/client/examples/rust"
	npmFiles      = "deployments/clients/"

	installLimit = 15 * time.Minute
)

// A part is what clients need, and how an ordinary package manager brings it.
type part struct {
	name string
	// is names what is installed, exactly: another text means to install anew.
	is func() (string, error)
	// steps are command lines; {} in them is the part's folder.
	steps [][]string
	// make replaces steps where they do not do.
	make func(ctx context.Context, log *bytes.Buffer) error
}

var parts = []part{
	{name: "drg", is: exactly(drgVersion), steps: cargoInstall("drg", drgVersion)},
	{name: "websocat", is: exactly(websocatVersion), steps: cargoInstall("websocat", websocatVersion)},
	{name: "rust", is: always, steps: [][]string{
		{"cargo", "build", "--quiet", "--locked", "--workspace", "--manifest-path", rustExample + "/Cargo.toml", "--target-dir", "{}"}}},
	{name: "npm", is: contents(npmFiles + "package-lock.json"), steps: [][]string{
		{"cp", npmFiles + "package.json", npmFiles + "package-lock.json", "{}"},
		{"npm", "ci", "--prefix", "{}", "--ignore-scripts", "--no-audit", "--no-fund"}}},
	{name: "python", is: contents(pythonExample + "/requirements.txt"), steps: [][]string{
		{"python3", "-m", "venv", "{}"},
		{"{}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", pythonExample + "/requirements.txt"}}},
	{name: "go", is: always, steps: [][]string{{"go", "build", "-o", "{}/example", "./edge/client/examples/go"}}},
	{name: "chromium", is: always, make: installChromium},
}

// cargoInstall builds without optimisation: these programs move a few events.
func cargoInstall(name, version string) [][]string {
	return [][]string{{"cargo", "install", "--quiet", "--locked", "--force", "--root", "{}", "--target-dir", "{}/target", name + "@" + version}}
}

// cargoSettings make cargo quick.
var cargoSettings = []string{
	"CARGO_PROFILE_RELEASE_OPT_LEVEL=0", "CARGO_PROFILE_RELEASE_LTO=off", "CARGO_PROFILE_RELEASE_DEBUG=0",
	"CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16", "CARGO_PROFILE_DEV_DEBUG=0", "CARGO_INCREMENTAL=0",
}

func exactly(version string) func() (string, error) {
	return func() (string, error) { return version, nil }
}

// contents is a file that pins versions.
func contents(name string) func() (string, error) {
	return func() (string, error) {
		text, err := os.ReadFile(name)
		return string(text), err
	}
}

// always leaves it to the step whether there is something to do.
func always() (string, error) { return "", nil }

// install brings a part, unless it is there.
func (p part) install(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, installLimit)
	defer cancel()
	folder, err := filepath.Abs(filepath.Join(cache, p.name))
	if err != nil {
		return fmt.Errorf("find folder: %w", err)
	}
	is, err := p.is()
	if err != nil {
		return fmt.Errorf("read versions: %w", err)
	}
	mark := folder + ".installed"
	if was, err := os.ReadFile(mark); err == nil && is != "" && string(was) == is {
		return nil
	}
	if is != "" {
		if err := os.RemoveAll(folder); err != nil { // of another version
			return fmt.Errorf("clear folder: %w", err)
		}
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	var log bytes.Buffer
	if err := p.run(ctx, folder, &log); err != nil {
		return fmt.Errorf("%w: %s", err, lastLines(log.String()))
	}
	// What cargo has compiled on the way is large and of no more use.
	if err := errors.Join(os.RemoveAll(filepath.Join(folder, "target")), os.WriteFile(mark, []byte(is), 0o644)); err != nil {
		return fmt.Errorf("finish: %w", err)
	}
	return nil
}

func (p part) run(ctx context.Context, folder string, log *bytes.Buffer) error {
	if p.make != nil {
		return p.make(ctx, log)
	}
	for _, step := range p.steps {
		words := make([]string, len(step))
		for i, word := range step {
			words[i] = strings.ReplaceAll(word, "{}", folder)
		}
		if err := execute(ctx, log, words...); err != nil {
			return err
		}
	}
	return nil
}

// execute runs one command line.
func execute(ctx context.Context, log *bytes.Buffer, words ...string) error {
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env = append(os.Environ(), cargoSettings...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(words[:min(len(words), 3)], " "), err)
	}
	return nil
}

// chromiums are the names that it goes by; Chrome is built from it.
var chromiums = []string{"chromium", "chromium-browser", "google-chrome"}

func findChromium() (string, error) {
	for _, name := range chromiums {
		if program, err := exec.LookPath(name); err == nil {
			return program, nil
		}
	}
	return "", errors.New("no Chromium was found")
}

// installChromium takes the one that is there, or Debian's.
func installChromium(ctx context.Context, log *bytes.Buffer) error {
	if _, err := findChromium(); err == nil {
		return nil
	}
	const how = "apt-get install --no-install-recommends chromium"
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return fmt.Errorf("none of %s is installed, and only root can on Debian: %s", strings.Join(chromiums, ", "), how)
	}
	if err := execute(ctx, log, "apt-get", "update"); err != nil {
		return err
	}
	// RUNLEVEL keeps packages from starting services.
	return execute(ctx, log, append([]string{"env", "RUNLEVEL=1", "DEBIAN_FRONTEND=noninteractive"}, strings.Fields(how+" --yes")...)...)
}

// lastLines is enough of a log to see what went wrong.
func lastLines(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], " | ")
}
