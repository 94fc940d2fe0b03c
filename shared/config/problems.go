package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Problems is an error that lists everything that is wrong with a configuration, one line
// each. No line holds the value of a secret.
type Problems []string

func (p Problems) Error() string {
	if len(p) == 1 {
		return "configuration: " + p[0]
	}
	return fmt.Sprintf("configuration: %d problems:\n  %s", len(p), strings.Join(p, "\n  "))
}

// Join makes one error out of those of Read and Validate, nil if all are nil. What two of
// them say is said once.
func Join(errs ...error) error {
	var all Problems
	for _, err := range errs {
		list, ok := errors.AsType[Problems](err)
		if !ok && err != nil {
			list = Problems{err.Error()}
		}
		for _, problem := range list {
			if !slices.Contains(all, problem) {
				all = append(all, problem)
			}
		}
	}
	return all.orNil()
}

func (p *Problems) add(format string, args ...any) { *p = append(*p, fmt.Sprintf(format, args...)) }

func (p Problems) orNil() error {
	if len(p) == 0 {
		return nil
	}
	return p
}
