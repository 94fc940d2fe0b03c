package client

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

const (
	// refreshShare of a token's life passes before the next one is asked for.
	refreshShare = 0.75
	// refreshRetry is the least time between two questions.
	refreshRetry = time.Second
)

// expiry reads when a token ends; the zero time if it does not say in a way that can be
// read. Nothing is verified: that is the edge's business.
func expiry(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}
	}
	var claims struct {
		Expires float64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Expires <= 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(claims.Expires * 1000))
}

// refreshIn is how long to wait before the successor of a token is asked for; never if the
// token does not end.
func refreshIn(token string, now time.Time) (wait time.Duration, ok bool) {
	end := expiry(token)
	if end.IsZero() {
		return 0, false
	}
	left := time.Duration(float64(end.Sub(now)) * refreshShare)
	return max(left, refreshRetry), true
}
