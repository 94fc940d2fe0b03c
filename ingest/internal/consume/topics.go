package consume

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"canopy/shared/topic"
)

// topicChoice says which topics are read, as franz-go takes it: by name, or if isRegex by
// patterns, and then those that a pattern of left matches are not.
type topicChoice struct {
	taken, left []string
	isRegex     bool
}

// chooseTopics reads the setting INGEST__TOPICS: names, patterns that begin with ^, and
// either behind a ! for topics that are not read. It makes patterns of all if one is, or if
// something is left out.
func chooseTopics(setting []string) (topicChoice, error) {
	isPattern := func(t string) bool { return strings.HasPrefix(t, "^") || strings.HasPrefix(t, "!") }
	c := topicChoice{isRegex: slices.ContainsFunc(setting, isPattern)}
	for _, t := range setting {
		t, left := strings.CutPrefix(t, "!")
		if c.isRegex && !strings.HasPrefix(t, "^") {
			t = "^" + regexp.QuoteMeta(t) + "$"
		}
		if c.isRegex {
			if _, err := regexp.Compile(t); err != nil {
				return topicChoice{}, fmt.Errorf("read topic pattern: %w", err)
			}
		}
		if left {
			c.left = append(c.left, t)
		} else {
			c.taken = append(c.taken, t)
		}
	}
	if len(c.taken) == 0 {
		return topicChoice{}, errors.New("read topics: there is none")
	}
	return c, nil
}

// matcher says of a topic's name whether it is read.
func (c topicChoice) matcher() func(string) bool {
	if !c.isRegex {
		return func(name string) bool { return slices.Contains(c.taken, name) }
	}
	taken, left := compile(c.taken), compile(c.left)
	return func(name string) bool {
		matches := func(p *regexp.Regexp) bool { return p.MatchString(name) }
		return slices.ContainsFunc(taken, matches) && !slices.ContainsFunc(left, matches)
	}
}

func compile(patterns []string) []*regexp.Regexp {
	list := make([]*regexp.Regexp, len(patterns))
	for i, p := range patterns {
		list[i] = regexp.MustCompile(p)
	}
	return list
}

// outsiders are those of names that only a pattern of setting has brought, and that the
// cloud's naming gives to no application: their records choose theirs.
func outsiders(setting []string, names map[string][]int32) []string {
	var list []string
	for name := range names {
		if _, plain := topic.Application(name); !plain && !topic.Hashed(name) && !slices.Contains(setting, name) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}
