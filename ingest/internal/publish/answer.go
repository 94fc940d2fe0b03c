package publish

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
)

// Fast batches, as nats-server 2.14 and later speak them (server/stream.go, getFastBatch).
// Each message carries its place in the batch in its reply subject:
//
//	<inbox>.<lane>.<batch>.<flow>.fail.<sequence>.<operation>.$FI
//
// The server answers to that subject: {"type":"ack"} about every <flow> messages, for all
// up to its seq; "gap" and "err" when it takes no more; and in the end a PubAck without a
// type, whose count is the number of messages that it took.
const (
	opStart = iota
	opAppend
	opCommit // append the message and end the batch
	opEnd    // end the batch, without a message
	opPing   // answer with an ack, or with a gap if something before is missing
)

const (
	// flow is the number of messages after which the server should acknowledge.
	flow = 128

	fastSuffix = ".$FI"
)

// replyTo is the reply subject of a fast batch's message. prefix ends in the batch's id.
func replyTo(prefix string, seq uint64, op int) string {
	b := make([]byte, 0, len(prefix)+40)
	b = append(b, prefix...)
	b = append(b, '.')
	b = strconv.AppendInt(b, flow, 10)
	b = append(b, ".fail."...)
	b = strconv.AppendUint(b, seq, 10)
	b = append(b, '.')
	b = strconv.AppendInt(b, int64(op), 10)
	return string(append(b, fastSuffix...))
}

// splitReply finds lane and attempt in the subject of an answer, behind the inbox.
func splitReply(rest string) (lane int, attempt string, ok bool) {
	number, rest, ok := strings.Cut(rest, ".")
	if !ok {
		return 0, "", false
	}
	lane, err := strconv.Atoi(number)
	attempt, _, _ = strings.Cut(rest, ".")
	return lane, attempt, err == nil
}

// answer is everything that a server says to a batch or to a single message.
type answer struct {
	Type      string    `json:"type"`
	Seq       uint64    `json:"seq"` // of the batch in an ack, of the stream in a PubAck
	Stream    string    `json:"stream"`
	Count     uint64    `json:"count"`
	Duplicate bool      `json:"duplicate"`
	Error     *apiError `json:"error"`
}

// apiError is JetStream's refusal. Codes are those of server/errors.json.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string {
	return e.Description + " (" + strconv.Itoa(e.ErrCode) + ")"
}

const (
	errCodeTooLarge       = 10054 // message size exceeds the stream's maximum
	errCodeHeaderTooLarge = 10097 // header block over 64 KiB
	errCodeStoreFailed    = 10077
	errCodeInFlight       = 10158 // the same Nats-Msg-Id is on its way through the replicas
)

// Reasons of refusals and of batches that ended early, fit for a metric's label.
const (
	reasonTooLarge       = "too_large"
	reasonHeaderTooLarge = "header_too_large"

	reasonTimeout      = "timeout"
	reasonDisconnected = "disconnected"
	reasonNoResponders = "no_responders"
	reasonIncomplete   = "incomplete"
	reasonError        = "error"
	reasonSend         = "send"
)

var errNoResponders = &apiError{Code: 503, Description: "no leader of the stream answers"}

// parseAnswer reads an answer; ok is false if it is none. A 503, which has no body, is an error.
func parseAnswer(m *nats.Msg) (a answer, ok bool) {
	if len(m.Data) == 0 {
		if m.Header.Get("Status") == "503" {
			return answer{Error: errNoResponders}, true
		}
		return answer{}, false
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return answer{}, false
	}
	return a, a.Type != "" || a.Error != nil || a.Stream != ""
}

// forever says whether e can never change for this message, and why.
func (e *apiError) forever() (reason string, ok bool) {
	switch e.ErrCode {
	case errCodeTooLarge:
		return reasonTooLarge, true
	case errCodeHeaderTooLarge:
		return reasonHeaderTooLarge, true
	case errCodeStoreFailed:
		// The file store has a bound of its own, which only its text tells.
		return reasonTooLarge, strings.Contains(e.Description, "message too large")
	}
	return "", false
}

// refusedHere says whether m is beyond what NATS carries at all, and why: sending it would
// end the connection, or use up a number of its batch.
func refusedHere(m *Message, maxPayload int64) (reason string, ok bool) {
	const maxHeader = 65535
	if m.headerLen > maxHeader {
		return reasonHeaderTooLarge, true
	}
	if maxPayload > 0 && int64(m.size()) > maxPayload {
		return reasonTooLarge, true
	}
	return "", false
}
