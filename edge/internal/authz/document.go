package authz

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"canopy/edge/internal/authn"
	"canopy/shared/yamlproblem"
)

// document is the applications file as it is written. Values that need a check of their
// own stay nodes, because a node knows its line and tells null from absent.
type document struct {
	Applications map[string]application `yaml:"applications"`
	APIKeys      []apiKey               `yaml:"api_keys"`
}

type application struct {
	Public  bool                 `yaml:"public"`
	Members map[string]yaml.Node `yaml:"members"`
}

type apiKey struct {
	User    yaml.Node `yaml:"user"`
	SHA256  yaml.Node `yaml:"sha256"`
	Expires yaml.Node `yaml:"expires"`
}

// snapshot is one version of the file, made for questions. It is never changed.
type snapshot struct {
	applications map[string]grants
	keys         map[[sha256.Size]byte]storedKey
}

// grants say who may read an application.
type grants struct {
	public bool
	users  map[string]struct{}
	roles  map[string]struct{}
}

// storedKey is what is known of an API key beside its hash.
type storedKey struct {
	user    string
	expires time.Time // zero: never
}

// valid reports whether the key has not expired yet.
func (k storedKey) valid(now time.Time) bool { return k.expires.IsZero() || now.Before(k.expires) }

// problems collects what is wrong with a file.
type problems []string

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

// parse reads an applications file. The error lists every problem with its line or field,
// and repeats nothing of the file: whatever stands there may be a key that somebody pasted.
func parse(content []byte) (*snapshot, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	var d document
	switch err := decoder.Decode(&d); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("the file is empty")
	case err != nil:
		return nil, errors.New(readable(content, err))
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("the file holds more than one document")
	}
	if d.Applications == nil {
		return nil, errors.New("applications is missing; write applications: {} if there are none")
	}
	var wrong problems
	s := &snapshot{
		applications: make(map[string]grants, len(d.Applications)),
		keys:         make(map[[sha256.Size]byte]storedKey, len(d.APIKeys)),
	}
	for _, name := range slices.Sorted(maps.Keys(d.Applications)) {
		if name == "" {
			wrong.add("applications: an application has no name")
		}
		s.applications[name] = readMembers(d.Applications[name], &wrong)
	}
	lines := make(map[[sha256.Size]byte]int)
	for i, k := range d.APIKeys {
		readKey(i, k, s.keys, lines, &wrong)
	}
	if len(wrong) > 0 {
		return nil, errors.New(strings.Join(wrong, "; "))
	}
	return s, nil
}

// readMembers turns the members of an application into those who may read it.
func readMembers(a application, wrong *problems) grants {
	g := grants{public: a.Public, users: make(map[string]struct{}), roles: make(map[string]struct{})}
	for _, member := range slices.Sorted(maps.Keys(a.Members)) {
		role, isRole := strings.CutPrefix(member, "role:")
		node := a.Members[member]
		switch {
		case member == "":
			wrong.add("%sa member has no name; public: true lets everybody read", at(&node))
		case isRole && role == "":
			wrong.add("%srole: lacks the name of a role", at(&node))
		}
		if !mayRead(&node, wrong) {
			continue
		}
		if isRole {
			g.roles[role] = struct{}{}
		} else {
			g.users[member] = struct{}{}
		}
	}
	return g
}

// mayRead checks a member's list of permissions and reports whether read is among them.
func mayRead(list *yaml.Node, wrong *problems) bool {
	list = resolve(list)
	if list.Kind != yaml.SequenceNode || len(list.Content) == 0 {
		wrong.add("%sexpected a member's list of permissions, such as [read]", at(list))
		return false
	}
	read := false
	for _, node := range list.Content {
		switch node = resolve(node); {
		case node.Kind == yaml.ScalarNode && node.Value == "read":
			read = true
		case node.Kind == yaml.ScalarNode && node.Value == "write":
		default:
			wrong.add("%sa permission is neither read nor write", at(node))
		}
	}
	return read
}

// readKey adds the i-th API key to keys, and its line to lines.
func readKey(i int, k apiKey, keys map[[sha256.Size]byte]storedKey, lines map[[sha256.Size]byte]int, wrong *problems) {
	field := fmt.Sprintf("api_keys[%d]", i)
	user, sum, expires := resolve(&k.User), resolve(&k.SHA256), resolve(&k.Expires)
	key := storedKey{user: user.Value}
	switch {
	case user.Kind != yaml.ScalarNode || user.Tag == "!!null" || user.Value == "":
		wrong.add("%s%s has no user", at(user), field)
	case !authn.ValidUser(user.Value):
		wrong.add("%s%s.user begins with role:, contains a slash or a control character, or is longer than 1 KiB", at(user), field)
	}
	if !expires.IsZero() {
		var err error
		if key.expires, err = time.Parse(time.RFC3339, expires.Value); err != nil {
			wrong.add("%s%s.expires is not a time such as 2027-06-30T00:00:00Z", at(expires), field)
		}
	}
	id, err := hex.DecodeString(sum.Value)
	if err != nil || len(id) != sha256.Size {
		wrong.add("%s%s.sha256 is not a SHA-256 of %d hex digits", at(sum), field, 2*sha256.Size)
		return
	}
	hash := [sha256.Size]byte(id)
	if line, ok := lines[hash]; ok {
		wrong.add("%s%s.sha256 is the same as in line %d", at(sum), field, line)
	}
	lines[hash], keys[hash] = sum.Line, key
}

// at names the line of a node that is there.
func at(n *yaml.Node) string {
	if n.Line == 0 {
		return ""
	}
	return fmt.Sprintf("line %d: ", n.Line)
}

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

var unknownField = regexp.MustCompile(`(?s)field .* not found in type authz\.(\w+)`)

// fields name what may stand where a field is unknown.
var fields = map[string]string{
	"document":    "applications, api_keys",
	"application": "public, members",
	"apiKey":      "user, sha256, expires",
}

// readable turns an error of the YAML library into one for operators: without the names
// of Go types, and without what stands in the file.
func readable(content []byte, err error) string {
	texts := yamlproblem.Of(content, err)
	for i, text := range texts {
		if m := unknownField.FindStringSubmatchIndex(text); m != nil {
			text = fmt.Sprintf("%sunknown field, want one of %s", text[:m[0]], fields[text[m[2]:m[3]]])
		}
		texts[i] = strings.NewReplacer(
			"map[string]authz.application", "applications by name",
			"authz.application", "an application",
			"map[string]yaml.Node", "members by name",
			"[]authz.apiKey", "a list of API keys",
			"authz.apiKey", "an API key",
			"authz.document", "an applications file",
		).Replace(text)
	}
	return strings.Join(texts, "; ")
}
