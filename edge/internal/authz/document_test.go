package authz

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// hashed is what the file holds for a key.
func hashed(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

func TestWrongFileIsRefusedWithLineOrField(t *testing.T) {
	const apps = "applications: {}\n"
	sum := hashed("key")
	for _, c := range []struct {
		name, content string
		want          []string
	}{
		{"empty", "", []string{"empty"}},
		{"comment only", "# nothing\n", []string{"empty"}},
		{"no applications", "api_keys: []\n", []string{"applications is missing"}},
		{"null", "~\n", []string{"applications is missing"}},
		{"null applications", "applications:\n", []string{"applications is missing"}},
		{"no YAML", "applications: {\n", []string{"line 1"}},
		{"a list", "- a\n", []string{"line 1"}},
		{"two documents", apps + "---\n" + apps, []string{"more than one document"}},
		{"unknown top key", apps + "apikeys: []\n", []string{"line 2", "api_keys"}},
		{"unknown application key", "applications:\n  a:\n    publik: true\n", []string{"line 3", "unknown field", "public, members"}},
		{"unknown key's key", apps + "api_keys:\n  - {user: a, sha256: " + sum + ", key: secret}\n", []string{"line 3", "sha256"}},
		{"application twice", "applications:\n  a: {}\n  a: {}\n", []string{"line 3", "a"}},
		{"application without a name", "applications:\n  ? ''\n  : {}\n", []string{"no name"}},
		{"member twice", "applications:\n  a:\n    members:\n      b: [read]\n      b: [write]\n", []string{"line 5"}},
		{"public is no bool", "applications:\n  a:\n    public: perhaps\n", []string{"line 3", "bool"}},
		{"unknown permission", "applications:\n  a:\n    members:\n      b: [reed]\n", []string{"line 4", "neither read nor write"}},
		{"null permission", "applications:\n  a:\n    members:\n      b: [~]\n", []string{"line 4", "neither read nor write"}},
		{"permission without a list", "applications:\n  a:\n    members:\n      b: read\n", []string{"line 4", "[read]"}},
		{"no permissions", "applications:\n  a:\n    members:\n      b: []\n", []string{"line 4", "[read]"}},
		{"null permissions", "applications:\n  a:\n    members:\n      b:\n", []string{"line 4", "[read]"}},
		{"Drogue's anybody", "applications:\n  a:\n    members:\n      '': [read]\n", []string{"public: true"}},
		{"role without a name", "applications:\n  a:\n    members:\n      'role:': [read]\n", []string{"name of a role"}},
		{"key without user", apps + "api_keys:\n  - sha256: " + sum + "\n", []string{"api_keys[0]", "no user"}},
		{"key with null user", apps + "api_keys:\n  - user:\n    sha256: " + sum + "\n", []string{"line 3", "no user"}},
		{"key of a role", apps + "api_keys:\n  - user: role:x\n    sha256: " + sum + "\n", []string{"line 3", "role:"}},
		{"key of a further issuer's user", apps + "api_keys:\n  - user: 1/x\n    sha256: " + sum + "\n", []string{"line 3", "slash"}},
		{"key without a hash", apps + "api_keys:\n  - user: a\n", []string{"api_keys[0]", "64 hex digits"}},
		{"short hash", apps + "api_keys:\n  - user: a\n    sha256: 6b86\n", []string{"line 4", "64 hex digits"}},
		{"hash of other digits", apps + "api_keys:\n  - user: a\n    sha256: " + sum[:63] + "g\n", []string{"line 4", "64 hex digits"}},
		{"key twice", apps + "api_keys:\n  - {user: a, sha256: " + sum + "}\n  - {user: b, sha256: " + sum + "}\n", []string{"line 4", "line 3"}},
		{"expiry left empty", apps + "api_keys:\n  - user: a\n    sha256: " + sum + "\n    expires:\n", []string{"line 5", "expires"}},
		{"expiry without a time", apps + "api_keys:\n  - user: a\n    sha256: " + sum + "\n    expires: 2027-06-30\n", []string{"line 5", "2027-06-30T00:00:00Z"}},
		{"several at once", "applications:\n  a:\n    members: {b: [x]}\n  c:\n    members: {d: [y]}\n", []string{"line 3: a permission", "line 5: a permission"}},
	} {
		_, err := parse([]byte(c.content))
		if err == nil {
			t.Errorf("%s: accepted", c.name)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error lacks %q: %v", c.name, want, err)
			}
		}
		if strings.Contains(err.Error(), "authz.") {
			t.Errorf("%s: error shows Go types: %v", c.name, err)
		}
	}
}

func TestErrorDoesNotRepeatAKeyThatWasPastedIntoTheFile(t *testing.T) {
	const key = "drg_012345_01234567890123456789012345678920BetF"
	for _, content := range []string{
		"applications: {}\napi_keys:\n  - %s\n",
		"applications: {}\napi_keys:\n  - %s: x\n",
		"applications: {}\napi_keys: %s\n",
		"applications: {}\napi_keys:\n  - {user: a, sha256: %s}\n",
		"applications: {}\napi_keys:\n  - {user: a, sha256: 00, expires: %s}\n",
		"applications:\n  a:\n    public: %s\n",
		"applications:\n  a:\n    members: {b: [%s]}\n",
		"applications:\n  a:\n    members: {%s: [reed]}\n",
		"applications:\n  a:\n    members: {%s: read}\n",
		"applications:\n  a:\n    members: {'role:': [read], %s: }\n",
		"applications:\n  a:\n    members: {%[1]s: [read], %[1]s: [read]}\n",
		"applications:\n  a:\n    members: %s\n",
		"applications:\n  a: {%s: x}\n",
		"applications: {}\n%s: x\n",
		"applications: {}\napi_keys:\n  - {user: a, sha256: *%s}\n",
		"applications: {}\napi_keys:\n  - {user: %s/x, sha256: 00}\n",
	} {
		_, err := parse(fmt.Appendf(nil, content, key))
		if err == nil {
			t.Errorf("%q was accepted", content)
		} else if strings.Contains(err.Error(), key[:8]) {
			t.Errorf("%q: error repeats the key: %v", content, err)
		}
	}
}

func TestNamesAreTakenAsTheyStand(t *testing.T) {
	s, err := parse([]byte(`
applications:
  123: {}
  1.0: {}
  true: {}
  a/b c.Ü: {}
  empty:
  shared: {members: &all {alice: &r [read], "1/bob": *r}}
  other: {members: *all}
api_keys:
  - {user: 007, sha256: ` + strings.ToUpper(hashed("key")) + `}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"123", "1.0", "true", "a/b c.Ü", "empty", "shared", "other"} {
		if _, ok := s.applications[name]; !ok {
			t.Errorf("no application %q", name)
		}
	}
	if _, ok := s.applications["other"].users["1/bob"]; !ok {
		t.Error("the anchored members are missing")
	}
	if k := s.keys[sha256.Sum256([]byte("key"))]; k.user != "007" {
		t.Errorf("key of %q", k.user)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte("applications: {a: &x {members: {b: [read]}}, c: *x}\napi_keys: [{user: a, sha256: " + hashed("k") + ", expires: 2027-06-30T00:00:00Z}]\n"))
	f.Add([]byte("applications: {<<: {a: {public: yes}}}\n---\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		s, err := parse(content)
		if (s == nil) == (err == nil) {
			t.Fatalf("got %v, %v", s, err)
		}
		if err != nil {
			if err.Error() == "" {
				t.Fatal("an error without text")
			}
			return
		}
		for _, g := range s.applications {
			if _, ok := g.users[""]; ok {
				t.Fatal("an anonymous member")
			}
		}
		for _, k := range s.keys {
			if k.user == "" {
				t.Fatal("a key without a user")
			}
		}
	})
}
