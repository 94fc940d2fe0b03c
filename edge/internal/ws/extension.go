package ws

import (
	"net/http"
	"strings"
)

// permessageDeflate is the extension of RFC 7692.
const permessageDeflate = "permessage-deflate"

// acceptDeflate is the answer to an offer of it. No message refers to the one before it, in
// either direction: so one compressed frame serves every socket, and none needs a window.
const acceptDeflate = permessageDeflate + "; server_no_context_takeover; client_no_context_takeover"

// windowBits is the size of the window that our frames use, as its logarithm. An offer that
// asks for a smaller one is passed over: those frames would be for that client alone.
const windowBits = "15"

// Offer is what a client offers of permessage-deflate and we can accept. The zero value is
// none.
type Offer struct {
	deflate  bool
	bitsSaid bool // it names the size of our window, and wants to hear it again
}

// Deflate says whether there is one.
func (o Offer) Deflate() bool { return o.deflate }

// answer is the value of the header Sec-WebSocket-Extensions, empty if there is no offer.
func (o Offer) answer() string {
	switch {
	case o.bitsSaid:
		return acceptDeflate + "; server_max_window_bits=" + windowBits
	case o.deflate:
		return acceptDeflate
	}
	return ""
}

// DeflateOffer returns the first offer of permessage-deflate that we can accept (RFC 7692,
// sections 5 and 7.1); a client that knows several ways offers the one that it likes best
// first. Other extensions, and what breaks the header's grammar, are no offers.
func DeflateOffer(r *http.Request) Offer {
	for _, line := range r.Header.Values("Sec-WebSocket-Extensions") {
		for item := range split(line, ',') {
			if o := parseOffer(item); o.deflate {
				return o
			}
		}
	}
	return Offer{}
}

// parseOffer reads one extension with its parameters, each of which may stand once.
func parseOffer(text string) Offer {
	o := Offer{}
	var seen [4]bool
	first := true
	for part := range split(text, ';') {
		name, value, hasValue := strings.Cut(part, "=")
		name, value = trim(name), trim(value)
		if first {
			if !strings.EqualFold(name, permessageDeflate) || hasValue {
				return Offer{}
			}
			first = false
			continue
		}
		if hasValue {
			value = unquote(value)
		}
		which, ok := 0, false
		switch strings.ToLower(name) {
		case "server_no_context_takeover":
			which, ok = 0, !hasValue
		case "client_no_context_takeover":
			which, ok = 1, !hasValue
		case "server_max_window_bits":
			which, ok = 2, hasValue && value == windowBits
			o.bitsSaid = true
		case "client_max_window_bits": // ours to use or not: we take whatever window it has
			which, ok = 3, !hasValue || isWindowBits(value)
		}
		if !ok || seen[which] {
			return Offer{}
		}
		seen[which] = true
	}
	o.deflate = true
	return o
}

// isWindowBits says whether a value is one of 8 to 15, without leading zeros.
func isWindowBits(value string) bool {
	switch value {
	case "8", "9", "10", "11", "12", "13", "14", "15":
		return true
	}
	return false
}

// unquote takes the quotes off a quoted string. What stands in it must be a token anyway,
// so that nothing in it is escaped; anything else stays as it is, and is no value of ours.
func unquote(value string) string {
	if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
		return value[1 : n-1]
	}
	return value
}

// trim takes away the blanks that may stand between the parts of a header.
func trim(s string) string { return strings.Trim(s, " \t") }

// split yields the parts of text between separators that stand outside quotes.
func split(text string, separator byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		start, quoted := 0, false
		for i := 0; i < len(text); i++ {
			switch c := text[i]; {
			case c == '"':
				quoted = !quoted
			case quoted && c == '\\':
				i++
			case !quoted && c == separator:
				if !yield(text[start:i]) {
					return
				}
				start = i + 1
			}
		}
		yield(text[start:])
	}
}
