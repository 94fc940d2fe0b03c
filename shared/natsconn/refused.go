package natsconn

import (
	"errors"
	"regexp"

	"github.com/nats-io/nats.go"
)

// The server's text is the only place that names the subject of a refusal:
// Permissions Violation for Publish to "foo"
// Permissions Violation for Subscription to "foo" using queue "q"
var refused = regexp.MustCompile(`(?i)for (?:publish|subscription) to "([^"]*)"`)

// refusedSubject reads the subject that NATS refused out of err, false if err is no refusal.
func refusedSubject(err error) (string, bool) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return "", false
	}
	m := refused.FindStringSubmatch(err.Error())
	if m == nil {
		return "", false
	}
	return m[1], true
}
