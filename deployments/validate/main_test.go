package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const help = "HTTP__BIND_ADDR (text)\nOAUTH__CLIENTS__<N>__CLIENT_ID (text)\n"

// problems checks a compose file with this text, beside a Dockerfile of ours.
func problems(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, ours), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "docker-compose.yml")
	for name, content := range map[string]string{path: text, filepath.Join(dir, ours, "Dockerfile.edge"): "FROM scratch\n"} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(t.Context(), path, strings.NewReader(help)); err != nil {
		return err.Error()
	}
	return ""
}

const good = `
name: test
services:
  edge:
    build: {context: ., dockerfile: deployments/docker/Dockerfile.edge}
    environment:
      HTTP__BIND_ADDR: 0.0.0.0:8080
      OAUTH__CLIENTS__0__CLIENT_ID: canopy
`

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
	} {
		if got := problems(t, c.text); !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want it to contain %q", name, got, c.want)
		}
	}
}
