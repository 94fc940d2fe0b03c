// Package event is what the tiers agree on about one event on its way: the NATS
// headers that go with its JSON, and the cursor that says where it stands in the log.
//
// The message body that ingest publishes is the finished CloudEvent in JSON format,
// compact, an object that ends in "}". The edge replaces that brace by the cursor
// extension (AppendCursor) and changes nothing else.
package event

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Headers of a message in the log, beside Nats-Msg-Id.
const (
	// HeaderChannel holds the event's subject attribute, escaped by EscapeHeader.
	// It is absent if the event has none.
	HeaderChannel = "Canopy-Channel"

	// HeaderDevice holds the event's device extension, escaped by EscapeHeader.
	// It is absent if the event has none.
	HeaderDevice = "Canopy-Device"

	// HeaderAppended holds the time of the Kafka record in milliseconds since 1970,
	// for the histogram of an event's age at delivery.
	HeaderAppended = "Canopy-Appended"
)

// EscapeHeader makes any text fit into a NATS header value: "%", control
// characters, spaces and bytes outside ASCII become %XX.
func EscapeHeader(s string) string {
	clean := true
	for i := range len(s) {
		clean = clean && headerPlain(s[i])
	}
	if clean {
		return s
	}
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len(s) + 16)
	for i := range len(s) {
		if c := s[i]; headerPlain(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	return b.String()
}

// UnescapeHeader gives back what EscapeHeader escaped.
func UnescapeHeader(s string) (string, error) { return url.PathUnescape(s) }

func headerPlain(c byte) bool { return c > ' ' && c < 0x7f && c != '%' }

const (
	logDigits      = 16
	sequenceDigits = 20

	// CursorLen is the length in bytes of every cursor.
	CursorLen = logDigits + 1 + sequenceDigits

	cursorMember = `,"cursor":"`
	// CursorSuffixLen is the number of bytes by which AppendCursor makes an event longer.
	CursorSuffixLen = len(cursorMember) + CursorLen + len(`"`)
)

// ErrCursor is returned for a text that is not a cursor.
var ErrCursor = errors.New("not a cursor")

// Log identifies a stream by the time of its creation in nanoseconds since 1970: a
// stream that was deleted and made again is another log.
type Log uint64

// LogOf is the Log of a stream that was created at t.
func LogOf(t time.Time) Log { return Log(t.UnixNano()) }

// Cursor is an event's place: "<log>-<sequence>" with 16 hexadecimal and 20 decimal
// digits, so that cursors of one log sort as text.
type Cursor struct {
	Log      Log
	Sequence uint64
}

func (c Cursor) String() string { return string(c.append(make([]byte, 0, CursorLen))) }

func (c Cursor) append(b []byte) []byte {
	const hexDigits = "0123456789abcdef"
	for shift := 4 * (logDigits - 1); shift >= 0; shift -= 4 {
		b = append(b, hexDigits[c.Log>>shift&15])
	}
	b = append(b, '-')
	var digits [sequenceDigits]byte
	for i, n := sequenceDigits-1, c.Sequence; i >= 0; i-- {
		digits[i] = byte('0' + n%10)
		n /= 10
	}
	return append(b, digits[:]...)
}

// ParseCursor reads what Cursor.String wrote. Its error wraps ErrCursor.
func ParseCursor(s string) (Cursor, error) {
	if len(s) != CursorLen || s[logDigits] != '-' || strings.ToLower(s) != s || s[0] == '+' || s[logDigits+1] == '+' {
		return Cursor{}, fmt.Errorf("%w: %.64q", ErrCursor, s)
	}
	log, err1 := strconv.ParseUint(s[:logDigits], 16, 64)
	seq, err2 := strconv.ParseUint(s[logDigits+1:], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return Cursor{}, fmt.Errorf("%w: %.64q", ErrCursor, s)
	}
	return Cursor{Log(log), seq}, nil
}

// AppendCursor appends json, a message body as the log holds it, to b, with the
// extension cursor as its last member. json must be an object with at least one member.
func AppendCursor(b, json []byte, c Cursor) []byte {
	b = append(b, json[:len(json)-1]...)
	b = append(b, cursorMember...)
	b = c.append(b)
	return append(b, '"', '}')
}

// LastCursor reads the cursor back from the end of what AppendCursor wrote. b may hold
// more before it.
func LastCursor(b []byte) (c Cursor) {
	b = b[len(b)-len(`"}`)-CursorLen:]
	for _, d := range b[:logDigits] {
		digit := d - '0'
		if d >= 'a' {
			digit = d - 'a' + 10
		}
		c.Log = c.Log<<4 | Log(digit)
	}
	c.Sequence = LastSequence(b)
	return c
}

// LastSequence reads the sequence back from the end of what AppendCursor wrote. b may
// hold more before it.
func LastSequence(b []byte) uint64 {
	var n uint64
	for _, c := range b[len(b)-len(`"}`)-sequenceDigits : len(b)-len(`"}`)] {
		n = 10*n + uint64(c-'0')
	}
	return n
}
