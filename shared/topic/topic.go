// Package topic maps applications onto the Kafka topics that hold their events, in
// exactly the way in which the cloud that creates those topics names them.
package topic

import (
	"crypto/md5"
	"encoding/hex"
	"strings"
)

const (
	plainPrefix  = "events-"
	hashedPrefix = "evt-"

	// maxLen is the length in bytes that no hashed topic exceeds. A plain one stays below it.
	maxLen = 63

	hexLen = 2 * md5.Size
)

// Of is the name of the topic that holds application's events: "events-NAME" if that
// is under 63 characters and NAME is lower-case letters, digits and inner dashes; else
// "evt-<MD5 of NAME>-NAME", made to fit.
func Of(application string) string {
	if isPlain(application) {
		return plainPrefix + application
	}
	// MD5 keeps names apart, and says whose a hashed topic is. Somebody else's name for one
	// would be a second preimage, which nobody can make, not a collision, which anybody can.
	sum := md5.Sum([]byte(application))
	b := make([]byte, 0, maxLen)
	b = append(b, hashedPrefix...)
	b = hex.AppendEncode(b, sum[:])
	b = append(b, '-')
	for _, c := range lower(application) {
		if len(b) == maxLen {
			break
		}
		if !plain(c) {
			c = '-'
		}
		b = append(b, byte(c))
	}
	return strings.TrimRight(string(b), "-")
}

// Application is the application whose events topicName holds. It is false if the name
// does not tell: hashed topics ("evt-…", see Hashed) do not contain the whole name, and
// topics that Of never makes belong to nobody.
func Application(topicName string) (string, bool) {
	application, ok := strings.CutPrefix(topicName, plainPrefix)
	if !ok || !isPlain(application) {
		return "", false
	}
	return application, true
}

// Hashed says whether topicName has the form of a hashed topic: it holds the events of the
// one application for which Of gives it, which the name alone does not tell.
func Hashed(topicName string) bool {
	rest, ok := strings.CutPrefix(topicName, hashedPrefix)
	if !ok || len(topicName) > maxLen || len(rest) < hexLen {
		return false
	}
	for _, c := range rest[:hexLen] {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	if rest = rest[hexLen:]; rest == "" {
		return true
	}
	if rest[0] != '-' || rest[len(rest)-1] == '-' {
		return false
	}
	for _, c := range rest {
		if !plain(c) {
			return false
		}
	}
	return true
}

// isPlain says whether application's topic is its name behind the plain prefix.
func isPlain(application string) bool {
	n := len(application)
	if n == 0 || len(plainPrefix)+n >= maxLen || application[0] == '-' || application[n-1] == '-' {
		return false
	}
	for i := range n {
		if !plain(rune(application[i])) {
			return false
		}
	}
	return true
}

func plain(c rune) bool { return c == '-' || 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// lower is name in lower case by Unicode's full mapping. Go's own is the simple one; the
// two differ for a single character, which the full one turns into two.
func lower(name string) string {
	return strings.ToLower(strings.ReplaceAll(name, "İ", "i\u0307"))
}
