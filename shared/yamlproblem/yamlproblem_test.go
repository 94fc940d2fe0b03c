package yamlproblem

import (
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const secret = "hunter2-secret"

// settings is a shape that files are read into.
type settings struct {
	Number int
	Group  map[string]int
	Known  struct{ Name string }
}

func TestNoProblemTellsWhatStandsInTheFile(t *testing.T) {
	for content, want := range map[string]string{
		secret + "\n":                                                            "line 1: cannot unmarshal !!str",
		"number: " + secret + "\n":                                               "line 1: cannot unmarshal !!str into int",
		"number: \"a`" + secret + "\"\n":                                         "line 1: cannot unmarshal !!str into int",
		"number: !" + secret + "\n":                                              "line 1: cannot unmarshal a tag into int",
		"number: !!int " + secret + "\n":                                         "cannot decode !!str as a !!int",
		"number: *" + secret + "\n":                                              "line 1: unknown anchor; text that begins with * needs quotes",
		"known:\n  name: *" + secret:                                             "line 2: unknown anchor",
		"a: &" + secret + " [*" + secret + "]\n":                                 "anchor value contains itself",
		"group:\n  " + secret + ": 1\n  " + secret + ": 2\n":                     "line 3: mapping key already defined at line 2",
		"group:\n  \"a'\\\"" + secret + "\": 1\n  \"a'\\\"" + secret + "\": 2\n": "line 3: mapping key already defined at line 2",
		"group:\n  a: %" + secret + "\n":                                         "line 2: found character that cannot start any token",
		"number: \"" + secret + "\\q\"\n":                                        "found unknown escape character",
		"? [" + secret + "]\n: 1\n":                                              "",
		"number: [" + secret + "\n":                                              "did not find expected ',' or ']'",
		"number: 1\n" + secret + "\n":                                            "could not find expected ':'",
	} {
		var typed settings
		var free map[string]any
		told := ""
		for _, into := range []any{&typed, &free} {
			if err := yaml.Unmarshal([]byte(content), into); err != nil {
				told += strings.Join(Of([]byte(content), err), "; ") + "\n"
			}
		}
		if told == "" || !strings.Contains(told, want) {
			t.Errorf("%q: got %q, want %q", content, told, want)
		}
		if strings.Contains(told, "hunter2") {
			t.Errorf("%q: a secret is told: %s", content, told)
		}
	}
}

func TestEveryProblemIsTold(t *testing.T) {
	content := []byte("number: a\ngroup:\n  b: c\n")
	err := yaml.Unmarshal(content, new(settings))
	if texts := Of(content, err); len(texts) != 2 || !strings.HasPrefix(texts[1], "line 3: ") {
		t.Errorf("got %q from %v, want two", texts, err)
	}
}
