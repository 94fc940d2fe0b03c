package session

import (
	"strconv"

	"canopy/edge/internal/group"
	"canopy/edge/internal/ws"
)

// Closing is why a session ends, as its client sees it: the row of the README's table of
// close codes.
type Closing struct {
	Code   uint16
	Reason string
	// Resume appends " since=<cursor>" to the reason, with the last event that was
	// written, for a client that comes back.
	Resume bool
}

// The reasons for which the edge closes a session.
var (
	Drained         = Closing{ws.CloseGoingAway, "edge is going away", true}
	SlowConsumer    = Closing{ws.CloseTryLater, "slow consumer", true}
	Unacknowledged  = Closing{ws.CloseTryLater, "group member does not answer Pings", false}
	TokenExpired    = Closing{ws.ClosePolicy, "JWT token expired", false}
	AccessWithdrawn = Closing{ws.ClosePolicy, "Access withdrawn", false}
	AccessUnknown   = Closing{ws.CloseInternal, "Access cannot be checked", false}
	Disconnected    = Closing{ws.ClosePolicy, "Disconnected by the operator", false}
	RefreshRefused  = Closing{ws.ClosePolicy, "Failed to refresh token", false}
	RefreshFailed   = Closing{ws.CloseInternal, "Failed to refresh token: tokens cannot be verified now", false}
	UnknownMessage  = Closing{ws.CloseProtocolError, "unknown message: expected RefreshAccessToken", false}
)

// departure says what a close frame of a client's means for the events of a group that it had:
// one that restarts, or has had enough for now, has nothing against them.
func departure(code uint16) group.Departure {
	switch code {
	case ws.CloseNormal, ws.CloseGoingAway, ws.CloseNoStatus, ws.CloseRestart, ws.CloseTryLater:
		return group.Gone
	case ws.CloseTooBig:
		return group.TooBig
	}
	return group.Failed
}

// codeLabel is a close code as metrics show it. Clients may send any number from 3000 to
// 4999, which must not make as many metrics.
func codeLabel(code uint16) string {
	if code >= 3000 {
		return "private"
	}
	return strconv.Itoa(int(code)) // ws lets no others through than the RFC's
}
