package client

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// Delays before the client comes back, of the README's table of close codes.
const (
	firstDelay    = time.Second // doubled with each failure in a row,
	longestDelay  = time.Minute // up to this
	busyDelay     = 5 * time.Second
	operatorDelay = time.Minute

	// minJitter spreads those who may come back at once.
	minJitter = 250 * time.Millisecond

	// maxForbidden is how often in a row a token may be refused that was good before: an
	// issuer's new keys take a moment to reach all edges.
	maxForbidden = 5
)

// RefusedError is an answer of the edge before the socket was open.
type RefusedError struct {
	Status        int           // of HTTP: 400, 403, 404, 429, 431, 500 or 503, or a proxy's
	Kind, Message string        // what the answer says; "" if it is no answer of an edge
	RetryAfter    time.Duration // when to come back; 0 if it does not say
}

// Error names the status and what the edge said.
func (e *RefusedError) Error() string {
	text := fmt.Sprintf("refused with %d %s", e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// ClosedError is the end of a socket that was open, by a close frame.
type ClosedError struct {
	Code   int    // of RFC 6455
	Reason string // without the place to resume at
}

// Error names the code and the reason.
func (e *ClosedError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("closed with %d %s", e.Code, e.Reason))
}

// ErrTooBig ends a connection of a member of a group whose next message is larger than
// Config.MaxMessage. It comes to Config.OnWait.
var ErrTooBig = errors.New("message is larger than the limit")

// A rule says whether to come back, and when.
type rule struct {
	final bool
	delay time.Duration // at least this
	grows bool          // with each failure in a row
}

var (
	never   = rule{final: true}
	growing = rule{grows: true}
	atOnce  = rule{}
)

// situation is what, besides the error, decides whether a client comes back.
type situation struct {
	token     bool // it can get a fresh one
	opened    bool // there was an open socket before
	forbidden int  // refusals with 403 in a row
}

// ruleFor is the README's table of refusals and close codes.
func ruleFor(err error, s situation) rule {
	var closed *ClosedError
	var refused *RefusedError
	switch {
	case errors.Is(err, errNoEvent):
		return never
	case errors.As(err, &closed):
		return closed.rule(s)
	case errors.As(err, &refused):
		return refused.rule(s)
	}
	return growing // the connection broke, or there was none
}

func (e *ClosedError) rule(s situation) rule {
	switch websocket.StatusCode(e.Code) {
	case websocket.StatusGoingAway:
		return atOnce
	case websocket.StatusProtocolError, websocket.StatusUnsupportedData, websocket.StatusInvalidFramePayloadData,
		websocket.StatusMessageTooBig, websocket.StatusMandatoryExtension:
		return never
	case websocket.StatusPolicyViolation:
		return e.policy(s)
	case websocket.StatusTryAgainLater:
		return rule{delay: busyDelay}
	}
	return growing // 1011, and what only proxies send
}

func (e *ClosedError) policy(s situation) rule {
	switch e.Reason {
	case "JWT token expired", "Failed to refresh token":
		if s.token {
			return atOnce
		}
	case "Disconnected by the operator":
		return rule{delay: operatorDelay}
	case "too many messages":
		return rule{delay: busyDelay}
	}
	return never
}

func (e *RefusedError) rule(s situation) rule {
	switch {
	case e.Status == http.StatusForbidden && e.Kind != "" && s.token && s.opened && s.forbidden < maxForbidden:
		return growing
	case e.Status == http.StatusTooManyRequests, e.Status >= http.StatusInternalServerError:
		return rule{delay: e.RetryAfter, grows: true}
	}
	return never
}

// wait is how long to wait by the rule after so many failures in a row, this one included.
// Chance is added, or all clients of an edge would come back in one moment.
func (r rule) wait(failures int) time.Duration {
	delay := r.delay
	if r.grows || failures > 1 {
		// What may come back at once may not do so again and again.
		grown := firstDelay << min(max(failures, 1)-1, 6)
		delay = max(delay, min(grown, longestDelay))
	}
	return delay + rand.N(delay/2+minJitter)
}

// splitReason takes the place to resume at off the reason of a close frame.
func splitReason(reason string) (text, since string) {
	if i := strings.LastIndex(reason, "since="); i == 0 || i > 0 && reason[i-1] == ' ' {
		return strings.TrimSpace(reason[:i]), reason[i+len("since="):]
	}
	return reason, ""
}
