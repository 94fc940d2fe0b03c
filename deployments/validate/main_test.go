package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const help = "HTTP__BIND_ADDR (text)\nOAUTH__CLIENTS__<N>__CLIENT_ID (text)\n"

const (
	goodImage = `
FROM --platform=linux/amd64 golang:1.26.8-bookworm AS build
FROM build as again
FROM scratch
USER 65532:65532
HEALTHCHECK --interval=10s CMD ["/edge", "health"]
`
	goodWorkflow = `
      - uses: actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683 # v4.2.2
      - uses: ./own
`
)

// problems checks a compose file with this text, beside a Dockerfile and a workflow of ours.
func problems(t *testing.T, text string) string {
	t.Helper()
	return problemsOf(t, text, goodImage, goodWorkflow)
}

func problemsOf(t *testing.T, text, image, workflow string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"docker-compose.yml": text, ours + "Dockerfile.edge": image, ".github/workflows/ci.yml": workflow,
	} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(t.Context(), filepath.Join(dir, "docker-compose.yml"), strings.NewReader(help)); err != nil {
		return err.Error()
	}
	return ""
}

const good = `
name: test
services:
  edge:
    build: {context: ., dockerfile: deployments/docker/Dockerfile.edge}
    user: "65532"
    mem_limit: 1g
    cap_drop: [ALL]
    healthcheck: {test: ["CMD", "/edge", "health"]}
    environment:
      GOMEMLIMIT: 900MiB
      HTTP__BIND_ADDR: 0.0.0.0:8080
      OAUTH__CLIENTS__0__CLIENT_ID: canopy
`

// without is the good file less a line.
func without(line string) string { return strings.Replace(good, line, "", 1) }

const (
	service = `
  nats:
    image: nats:2.15.2
    user: "65532"
    mem_limit: 1g
    cap_drop: [ALL]
`
	oneShot = `
    image: nats:2.15.2
    user: "0:0"
    mem_limit: 64m
    cap_drop: [ALL]
    read_only: true
    network_mode: none
`
	// ending has a service that does its work as root, and then is gone.
	ending = good + "  init:" + oneShot + service + `
    healthcheck: {test: ["CMD", "true"]}
    depends_on:
      init: {condition: service_completed_successfully}
`
)

func TestAServiceThatEndsMayBeRootIfItReachesNobody(t *testing.T) {
	if got := problems(t, ending); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestADockerfileThatIsUnpinnedOrRootOrUnwatchedIsNamed(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no tag":          {"FROM golang\n" + goodImage, "golang\" is not pinned"},
		"latest":          {strings.Replace(goodImage, "1.26.8-bookworm", "latest", 1), "golang:latest\" is not pinned"},
		"no user":         {strings.Replace(goodImage, "USER 65532:65532\n", "", 1), "runs as root"},
		"root at last":    {goodImage + "USER root\n", "runs as root"},
		"no health check": {strings.Replace(goodImage, "HEALTHCHECK", "# HEALTHCHECK", 1), "no health check"},
	} {
		if got := problemsOf(t, good, c.text, goodWorkflow); !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want it to contain %q", name, got, c.want)
		}
	}
}

func TestAnActionWithoutItsCommitIsNamed(t *testing.T) {
	for name, c := range map[string]struct{ uses, want string }{
		"a tag":             {"actions/checkout@v4.2.2", "checkout@v4.2.2 is not pinned"},
		"a short commit":    {"actions/checkout@11bd719 # v4.2.2", "not pinned"},
		"in quotes":         {`"actions/checkout@v4"`, "checkout@v4 is not pinned"},
		"an image":          {"docker://alpine:3.20", "not pinned"},
		"no version beside": {"actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683", "which version"},
	} {
		if got := problemsOf(t, good, goodImage, goodWorkflow+"      - uses: "+c.uses+"\n"); !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want it to contain %q", name, got, c.want)
		}
	}
}

func TestAGoodFileHasNoProblems(t *testing.T) {
	if got := problems(t, good); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":        {good + "    restrat: always\n", "restrat"},
		"unknown setting":    {good + "      HTTP__BIND_ADR: x\n", "HTTP__BIND_ADR"},
		"missing network":    {good + "    networks: [nowhere]\n", "nowhere"},
		"unknown dependency": {good + "    depends_on: [nobody]\n", "nobody"},
		"unpinned image":     {good + "  nats:\n    image: nats\n", "not pinned"},
		"latest image":       {good + "  nats:\n    image: nats:latest\n", "not pinned"},
		"missing mount":      {good + "    volumes: [\"./nothing.yaml:/x:ro\"]\n", "nothing.yaml"},
		"missing Dockerfile": {strings.Replace(good, "Dockerfile.edge", "Dockerfile.none", 1), "Dockerfile.none"},
		"hidden by profile":  {good + "  sensors:\n    profiles: [demo]\n    image: nats\n", "not pinned"},
		"no digest":          {good + "  nats:\n    image: nats@sha256:12\n", "not pinned"},
		"registry's port":    {good + "  nats:\n    image: registry:5000/nats\n", "not pinned"},
		"no user":            {without("    user: \"65532\"\n"), "runs as root"},
		"root by number":     {strings.Replace(good, "65532", "0:65532", 1), "runs as root"},
		"root by name":       {strings.Replace(good, "65532", "root", 1), "runs as root"},
		"no memory limit":    {without("    mem_limit: 1g\n"), "may take all memory"},
		"capabilities":       {without("    cap_drop: [ALL]\n"), "keeps capabilities"},
		"no health check":    {without("    healthcheck: {test: [\"CMD\", \"/edge\", \"health\"]}\n"), "no health check"},
		"health check off":   {strings.Replace(good, "{test: [\"CMD\", \"/edge\", \"health\"]}", "{disable: true}", 1), "no health check"},
		"only started":       {good + service + "    healthcheck: {test: [\"CMD\", \"true\"]}\n    depends_on: [edge]\n", "only until edge is started"},
		"root that stays":    {good + "  init:" + oneShot + "    healthcheck: {test: [\"CMD\", \"true\"]}\n", "init: runs as root"},
		"root with network":  {strings.Replace(ending, "    network_mode: none\n", "", 1), "init: runs as root"},
	} {
		if got := problems(t, c.text); !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want it to contain %q", name, got, c.want)
		}
	}
}
