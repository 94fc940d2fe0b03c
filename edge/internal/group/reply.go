package group

import (
	"math"
	"strings"
)

// origin is what a consumer's message says about itself, as far as a group needs it.
type origin struct {
	sequence  uint64 // in the stream
	delivered uint64 // how often this event has been sent
	stored    int64  // when the stream took it, ns since 1970
	pending   uint64 // events of the application behind it
}

const (
	replyPrefix = "$JS.ACK."

	// Tokens of a reply subject, and those of them before the number of deliveries, which
	// the sequence in the stream follows: without or with the domain and the account. A
	// further token may come behind the longer form.
	replyTokens, replyBefore         = 9, 4
	replyTokensLong, replyBeforeLong = 11, 6
)

// parseReply reads the subject at which a consumer's message is acknowledged. It does what
// the client's Metadata does, without memory for what nobody asks for.
func parseReply(reply string) (o origin, ok bool) {
	if !strings.HasPrefix(reply, replyPrefix) {
		return o, false
	}
	before := replyBefore
	switch tokens := strings.Count(reply, ".") + 1; {
	case tokens >= replyTokensLong:
		before = replyBeforeLong
	case tokens != replyTokens:
		return o, false
	}
	for range before {
		_, reply, _ = strings.Cut(reply, ".")
	}
	delivered, reply, _ := strings.Cut(reply, ".")
	sequence, reply, _ := strings.Cut(reply, ".")
	_, reply, _ = strings.Cut(reply, ".") // the sequence in the consumer
	stored, reply, _ := strings.Cut(reply, ".")
	pending, _, _ := strings.Cut(reply, ".")
	var ok1, ok2, ok3, ok4 bool
	var at uint64
	o.delivered, ok1 = decimal(delivered)
	o.sequence, ok2 = decimal(sequence)
	at, ok3 = decimal(stored)
	o.stored = int64(at)
	o.pending, ok4 = decimal(pending)
	return o, ok1 && ok2 && ok3 && ok4
}

// decimal reads a number of digits only, which must fit into 63 bits.
func decimal(text string) (n uint64, ok bool) {
	if len(text) == 0 || len(text) > 19 {
		return 0, false
	}
	for i := range len(text) {
		c := text[i] - '0'
		if c > 9 {
			return 0, false
		}
		n = 10*n + uint64(c)
	}
	return n, n <= math.MaxInt64
}
