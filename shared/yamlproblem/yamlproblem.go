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
	{regexp.MustCompile(`(cannot (?:unmarshal|decode)) ![^!]\S*`), "$1 a tag"},
}

var anchor = regexp.MustCompile(`(?s)unknown anchor '(.*)' referenced`)

// without is text without what it repeats of content.
func without(content []byte, text string) string {
	if m := anchor.FindStringSubmatch(text); m != nil {
		before, _, _ := bytes.Cut(content, []byte("*"+m[1]))
		return fmt.Sprintf("line %d: unknown anchor; text that begins with * needs quotes", 1+bytes.Count(before, []byte("\n")))
	}
	for _, v := range values {
		text = v.pattern.ReplaceAllString(text, v.remains)
	}
	return text
}
