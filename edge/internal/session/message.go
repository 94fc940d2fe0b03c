package session

import (
	"encoding/json"
	"errors"
	"fmt"
)

var errUnknownMessage = errors.New("unknown message")

// parseMessage gives the token of the one message that a client may send,
// {"RefreshAccessToken":"<token>"}. The error wraps
// errUnknownMessage and says nothing of the payload, which may be secret.
func parseMessage(payload []byte) (token string, err error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(payload, &members); err != nil {
		return "", fmt.Errorf("%w: not a JSON object", errUnknownMessage)
	}
	raw, ok := members["RefreshAccessToken"]
	if !ok || len(members) != 1 {
		return "", fmt.Errorf("%w: not one RefreshAccessToken", errUnknownMessage)
	}
	if err := json.Unmarshal(raw, &token); err != nil || raw[0] != '"' {
		return "", fmt.Errorf("%w: the token is not a string", errUnknownMessage)
	}
	return token, nil
}
