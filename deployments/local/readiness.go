package local

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"go.uber.org/zap"
)

const (
	pollInterval = 10 * time.Millisecond
	pollTimeout  = 5 * time.Second
	pollPatience = 5 * time.Second // until the log says what is waited for
	maxAnswer    = 4 << 10         // bytes of an answer that are logged
)

// pollReadiness returns when the health server at addr answers /readiness with 200, or
// with the error of ctx.
func pollReadiness(ctx context.Context, addr string, log *zap.Logger) error {
	client := &http.Client{Timeout: pollTimeout}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	said := false
	for began := time.Now(); ; {
		ready, answer := askReadiness(ctx, client, addr)
		if ready {
			return nil
		}
		if !said && time.Since(began) > pollPatience {
			log.Warn("still waiting until it is ready", zap.String("answer", answer))
			said = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// askReadiness gives the answer of the health server at addr, or why there is none.
func askReadiness(ctx context.Context, client *http.Client, addr string) (ready bool, answer string) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readiness", nil)
	if err != nil {
		return false, err.Error()
	}
	response, err := client.Do(request)
	if err != nil {
		return false, err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return false, fmt.Sprintf("read answer: %v", err)
	}
	return response.StatusCode == http.StatusOK, string(body)
}
