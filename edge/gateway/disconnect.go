package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"go.uber.org/zap"

	"canopy/edge/internal/session"
)

// disconnectTimeout is for closing a million sockets on a busy machine.
const disconnectTimeout = 10 * time.Second

// disconnect closes all sockets of a user or of an application, for an operator: POST
// with one of the query parameters user and application. It answers how many there were.
func disconnect(sessions *session.Registry, log *zap.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, application, ok := whom(r.URL.RawQuery)
		if !ok {
			answerJSON(w, http.StatusBadRequest, map[string]any{
				"error": "BadRequest", "message": "Expected user=… or application=…, one of them, once and not empty",
			})
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), disconnectTimeout)
		defer cancel()
		n := sessions.Disconnect(ctx, user, application)
		log.Info("sockets disconnected by the operator", zap.String("user", user), zap.String("application", application), zap.Int("sockets", n))
		answerJSON(w, http.StatusOK, map[string]any{"disconnected": n})
	})
}

// whom reads the query of a disconnect: a user or an application, the other one empty.
func whom(query string) (user, application string, ok bool) {
	values, err := url.ParseQuery(query)
	if err != nil || len(values) != 1 {
		return "", "", false // a misspelt parameter must not be overlooked
	}
	for name, list := range values {
		if len(list) != 1 || list[0] == "" {
			return "", "", false
		}
		switch name {
		case "user":
			return list[0], "", true
		case "application":
			return "", list[0], true
		}
	}
	return "", "", false
}

func answerJSON(w http.ResponseWriter, status int, body map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}
