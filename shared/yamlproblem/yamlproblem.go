// Package yamlproblem says what is wrong with a YAML file without saying what stands in it:
// any value there may be a secret that somebody forgot to quote or put in the wrong place.
package yamlproblem

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Of is what err, which the YAML library returned for content, says: a text for each
// problem, with its line where that is known.
func Of(content []byte, err error) []string {
	var wrong *yaml.TypeError
	if !errors.As(err, &wrong) {
		return []string{without(content, strings.TrimPrefix(err.Error(), "yaml: "))}
	}
	texts := make([]string, len(wrong.Errors))
	for i, text := range wrong.Errors {
		texts[i] = without(content, text)
	}
	return texts
}

// values are the places where the library's messages repeat the file, and what remains of
// them. A value may hold what quotes it in the message: each pattern takes as much as it
// can. Quotes of ' stand around YAML's own characters in all other messages.
var values = []struct {
	pattern *regexp.Regexp
	remains string
}{
	{regexp.MustCompile("(?s)`.*` ?"), ""},
	{regexp.MustCompile(`(?s)".*" ?`), ""},
	{regexp.MustCompile(`(?s)anchor '.*' `), "anchor "},
	{regexp.MustCompile(`(?s)invalid map key: .*`), "invalid map key"},
	{regexp.MustCompile(`(?s)field .* already set in type `), "field already set in type "},
}

// mismatch is the message about a value of the wrong type: its tag, which may be anybody's
// invention, perhaps with the value behind it, and what was expected.
var mismatch = regexp.MustCompile("(?s)(cannot (?:unmarshal|decode)) (![^ `]*).* (into|as a) (.*)")

// tag is one of YAML's own.
var tag = regexp.MustCompile(`^!!(?:binary|bool|float|int|map|merge|null|seq|str|timestamp)$`)

// expected is a type as Go writes it, or a tag of YAML's own.
var expected = regexp.MustCompile(`^(?:!![a-z]+|[\w.*\[\]{}]+)$`)

var anchor = regexp.MustCompile(`(?s)unknown anchor '(.*)' referenced`)

// without is text without what it repeats of content.
func without(content []byte, text string) string {
	if m := anchor.FindStringSubmatch(text); m != nil {
		before, _, _ := bytes.Cut(content, []byte("*"+m[1]))
		return fmt.Sprintf("line %d: unknown anchor; text that begins with * needs quotes", 1+bytes.Count(before, []byte("\n")))
	}
	if m := mismatch.FindStringSubmatchIndex(text); m != nil {
		part := func(n int) string { return text[m[2*n]:m[2*n+1]] }
		found, wanted := part(2), part(4)
		if !tag.MatchString(found) {
			found = "a tag"
		}
		if !expected.MatchString(wanted) {
			wanted = "what is expected"
		}
		return without(nil, text[:m[0]]) + part(1) + " " + found + " " + part(3) + " " + wanted
	}
	for _, v := range values {
		text = v.pattern.ReplaceAllString(text, v.remains)
	}
	return text
}
