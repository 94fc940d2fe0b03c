// Package deployments holds the check of the repository's layout; what runs Canopy is in
// the folders below.
package deployments

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "canopy/"

// tops are the folders at the top level that hold Go code, each with those of them that it
// may import beside itself. What deploys and what measures serve each other's tests.
var tops = map[string][]string{
	"shared":      nil,
	"ingest":      {"shared"},
	"edge":        {"shared"},
	"deployments": {"shared", "ingest", "edge", "bench"},
	"bench":       {"shared", "ingest", "edge", "deployments"},
}

// homes are the folders in which a library may be imported, tests aside.
var homes = map[string][]string{
	"github.com/twmb/franz-go":       {"ingest/internal/consume", "deployments/local", "deployments/clients", "bench"},
	"github.com/coder/websocket":     {"edge/client", "deployments/attack", "deployments/smoke", "deployments/clients", "bench"},
	"github.com/lesismal/nbio":       {"edge/internal/ws", "bench"},
	"github.com/golang-jwt/jwt":      {"edge/internal/authn", "edge/internal/edgetest", "deployments/local/issuer", "bench"},
	"github.com/MicahParks/keyfunc":  {"edge/internal/authn", "bench"},
	"github.com/MicahParks/jwkset":   {"edge/internal/authn"},
	"github.com/maypok86/otter":      {"edge/internal/drogue"},
	"golang.org/x/oauth2":            {"edge/internal/drogue"},
	"github.com/nats-io/nats-server": {"deployments/local", "shared/natstest", "bench"},
}

// tenants are libraries that do their work in the product, each with the folder that must
// import it for that, tests aside.
var tenants = map[string]string{
	"github.com/MicahParks/keyfunc": "edge/internal/authn",
	"github.com/golang-jwt/jwt":     "edge/internal/authn",
	"github.com/lesismal/nbio":      "edge/internal/ws",
	"github.com/twmb/franz-go":      "ingest/internal/consume",
}

// source is a Go file of the module, with slashes and relative to the top.
type source struct {
	file    string
	imports []string
}

func (s source) top() string { return strings.SplitN(s.file, "/", 2)[0] }

func (s source) test() bool { return strings.HasSuffix(s.file, "_test.go") }

// sources reads the imports of every Go file of this module.
func sources(t *testing.T) []source {
	t.Helper()
	top, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	var all []source
	err = filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if skip(name, top) {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(top, name)
		if err != nil {
			return err
		}
		s := source{file: filepath.ToSlash(relative)}
		for _, i := range file.Imports {
			imported, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			s.imports = append(s.imports, imported)
		}
		all = append(all, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("no Go files found")
	}
	return all
}

// skip leaves out what git does not keep and what is a module of its own.
func skip(dir, top string) bool {
	if dir == top {
		return false
	}
	base := filepath.Base(dir)
	if strings.HasPrefix(base, ".") || base == "testdata" || dir == filepath.Join(top, "bin") {
		return true
	}
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

func TestGoCodeLiesInTheFixedFolders(t *testing.T) {
	for _, s := range sources(t) {
		if _, ok := tops[s.top()]; !ok || !strings.Contains(s.file, "/") {
			t.Errorf("%s is in none of the folders for code", s.file)
		}
	}
}

func TestTiersNeverImportEachOtherAndSharedImportsNoTier(t *testing.T) {
	for _, s := range sources(t) {
		for _, imported := range s.imports {
			inside, ok := strings.CutPrefix(imported, module)
			if !ok {
				continue
			}
			to := strings.SplitN(inside, "/", 2)[0]
			if to != s.top() && !slices.Contains(tops[s.top()], to) {
				t.Errorf("%s imports %s", s.file, imported)
			}
		}
	}
}

func TestLibrariesStayInTheirHomes(t *testing.T) {
	seen := make(map[string]bool)
	for _, s := range sources(t) {
		for _, imported := range s.imports {
			for library, folders := range homes {
				if !below(imported, library) {
					continue
				}
				seen[library] = true
				atHome := slices.ContainsFunc(folders, func(f string) bool { return below(path.Dir(s.file), f) })
				if !s.test() && !atHome {
					t.Errorf("%s imports %s, which only %v may", s.file, imported, folders)
				}
			}
		}
	}
	for library := range homes {
		if !seen[library] {
			t.Errorf("nothing imports %s: has it moved?", library)
		}
	}
}

func TestTheProductItselfUsesTheLibrariesThatItIsSaidToUse(t *testing.T) {
	used := make(map[string]bool)
	for _, s := range sources(t) {
		for library, folder := range tenants {
			if !s.test() && path.Dir(s.file) == folder && slices.ContainsFunc(s.imports, func(i string) bool { return below(i, library) }) {
				used[library] = true
			}
		}
	}
	for library, folder := range tenants {
		if !used[library] {
			t.Errorf("%s does not import %s", folder, library)
		}
	}
}

// below says whether name is parent or lies under it.
func below(name, parent string) bool { return name == parent || strings.HasPrefix(name, parent+"/") }
