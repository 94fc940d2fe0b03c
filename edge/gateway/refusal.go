package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxName is how much of an application's name a refusal repeats, in bytes.
const maxName = 256

// refusal is the answer to a request that opens no socket. Clients see these fields and
// nothing else; cause is for the operator's log.
type refusal struct {
	status     int
	kind       string // the answer's member error
	message    string
	retryAfter int // seconds; 0 means none
	cause      error
}

func badRequest(message string) *refusal {
	return &refusal{status: http.StatusBadRequest, kind: "BadRequest", message: message}
}

func forbidden(message string, cause error) *refusal {
	return &refusal{status: http.StatusForbidden, kind: "Forbidden", message: message, cause: cause}
}

// notFound is the answer for an application that does not exist and for one that the
// client may not read: it must not be able to tell.
func notFound(application string) *refusal {
	return &refusal{
		status: http.StatusNotFound, kind: "NotFound",
		message: "Resource not found: Application / " + cutName(application),
	}
}

func noSuchPath() *refusal {
	return &refusal{status: http.StatusNotFound, kind: "NotFound", message: "Resource not found"}
}

func internal(message string, cause error) *refusal {
	return &refusal{status: http.StatusInternalServerError, kind: "Internal", message: message, cause: cause}
}

func unavailable(message string, cause error) *refusal {
	return &refusal{
		status: http.StatusServiceUnavailable, kind: "Unavailable",
		message: message, retryAfter: 5, cause: cause,
	}
}

// tooMany is the answer to a client that has enough already. It may try again after so many
// seconds.
func tooMany(message string, retryAfter int) *refusal {
	return &refusal{
		status: http.StatusTooManyRequests, kind: "TooManyRequests",
		message: message, retryAfter: retryAfter,
	}
}

// seconds rounds a wait up to what Retry-After can say.
func seconds(wait time.Duration) int { return int((wait + time.Second - 1) / time.Second) }

// gone stands for a client that left before it could be answered.
func gone(cause error) *refusal {
	return &refusal{status: statusClientLeft, kind: "ClientLeft", message: "Client left", cause: cause}
}

// statusClientLeft is nginx's number for it, which stands in metrics only.
const statusClientLeft = 499

// tooManyLines is the answer to a head that has more of them than there may be.
func tooManyLines() *refusal {
	status := http.StatusRequestHeaderFieldsTooLarge
	return &refusal{status: status, kind: "RequestHeaderFieldsTooLarge", message: "Too many header lines"}
}

func full() *refusal { return unavailable("Too many connections on this edge", nil) }

// cutName gives at most maxName bytes of name, cut where a character ends, as UTF-8.
func cutName(name string) string {
	if len(name) > maxName {
		n := maxName
		for n > maxName-utf8.UTFMax && !utf8.RuneStart(name[n]) {
			n--
		}
		name = name[:n]
	}
	return strings.ToValidUTF8(name, "\uFFFD")
}

// write answers the request.
func (r *refusal) write(w http.ResponseWriter) {
	body := r.fill(w.Header())
	w.WriteHeader(r.status)
	_, _ = w.Write(body) // the client may be gone
}

// raw is the whole answer as it goes over the wire, after which the connection ends.
func (r *refusal) raw() []byte {
	header := http.Header{"Connection": {"close"}}
	body := r.fill(header)
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", r.status, http.StatusText(r.status))
	_ = header.Write(&b) // a buffer takes everything
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

// fill sets the answer's headers and returns its body.
func (r *refusal) fill(header http.Header) (body []byte) {
	body, _ = json.Marshal(struct { // two strings, which always encode
		Error   string `json:"error"`
		Message string `json:"message"`
	}{r.kind, r.message})
	header.Set("Content-Type", "application/json")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	if r.status == http.StatusBadRequest {
		header.Set("Sec-WebSocket-Version", "13") // RFC 6455, 4.4: what the client could have asked for
	}
	if r.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(r.retryAfter))
	}
	return body
}
