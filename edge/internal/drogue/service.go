package drogue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"canopy/edge/internal/authn"
	"canopy/edge/internal/openid"
	"canopy/shared/config"
)

const (
	// attempts is how often a question is put, attemptTimeout how long each waits, and
	// callTimeout how long all of them together.
	attempts       = 3
	attemptTimeout = 2 * time.Second
	callTimeout    = 5 * time.Second
	// firstPause is the pause after the first failure, about; it doubles.
	firstPause = 100 * time.Millisecond
	// slotTimeout is how long a question waits for others to end before it is put at all.
	// It is no part of callTimeout: a queue says nothing about the service.
	slotTimeout = 2 * time.Second
	// rest is how long a service is left alone that cannot be reached. Until then every
	// question fails at once, so that an outage holds nobody up.
	rest = 2 * time.Second
	// doubts is how many different questions must have failed, none having been answered
	// in between, for the service to be taken for unreachable where it may be the
	// question's fault: one that makes it hang or hang up must not stop all others.
	doubts = 3
	// answerBytes bounds an answer.
	answerBytes = 1 << 20
)

// lane is a kind of askers. Each has its own share of a service, so that no kind waits for,
// or rests because of, what another one asks.
type lane int

const (
	sockets   lane = iota // open ones, whose access is asked about again
	users                 // who sign in, and have shown a token or a known key
	strangers             // who sign in with nothing, or with a key that nobody knows yet
	lanes
)

// concurrency bounds the calls of each lane to one service at a time.
var concurrency = [lanes]int{sockets: 64, users: 32, strangers: 16}

// errRests says that a service could not be reached a moment ago and is not asked now.
var errRests = errors.New("could not be reached a moment ago")

// noToken says that the issuer gave no token to ask with, whatever the question.
type noToken struct{ error }

func (e noToken) Unwrap() error { return e.error }

// refusal is a status that is no answer.
type refusal int

func (r refusal) Error() string { return fmt.Sprintf("status %d", int(r)) }

// away reports whether the status says that there is nobody to answer. One that the
// service itself chose may be the fault of one question, which must not stop all others.
func (r refusal) away() bool {
	return r == http.StatusBadGateway || r == http.StatusServiceUnavailable || r == http.StatusGatewayTimeout
}

// service is one of Drogue's HTTP services. Any goroutine may use it.
type service struct {
	name   string // of its settings
	url    string // without a slash at the end
	client *http.Client
	tokens *tokens
	log    *zap.Logger
	calls  *prometheus.HistogramVec
	slots  [lanes]chan struct{} // one element for each call under way

	mu       sync.Mutex
	answered bool                         // it has answered once
	trouble  error                        // what the last call failed with, nil if it did not
	resting  [lanes]time.Time             // until when it is not asked
	failed   [lanes]map[[32]byte]struct{} // hashes of questions without an answer since the last one; fewer than doubts
}

// newService returns the service that cfg describes; issuer is the one to fall back on.
func newService(life context.Context, name string, cfg config.Service, issuer string, log *zap.Logger, calls *prometheus.HistogramVec) (*service, error) {
	if cfg.IssuerURL != "" {
		issuer = cfg.IssuerURL
	}
	web, err := openid.NewIssuer(issuer, nil)
	if err != nil {
		return nil, fmt.Errorf("use issuer of %s: %w", name, err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	to := &service{
		name: name,
		url:  strings.TrimSuffix(cfg.URL, "/"),
		client: &http.Client{
			Transport: transport,
			Timeout:   attemptTimeout,
			// A redirect would take the question, and with it a key, somewhere else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		tokens:  &tokens{life: life, issuer: web, id: cfg.ClientID, secret: cfg.ClientSecret, now: time.Now},
		log:     log.With(zap.String("service", name)),
		calls:   calls,
		trouble: errors.New("not asked yet"),
	}
	transport.MaxIdleConnsPerHost = 0
	for from, most := range concurrency {
		to.slots[from] = make(chan struct{}, most)
		to.failed[from] = make(map[[32]byte]struct{}, doubts)
		transport.MaxIdleConnsPerHost += most
	}
	return to, nil
}

// ready returns nil once the service has answered, and what keeps it before that.
func (s *service) ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answered {
		return nil
	}
	return fmt.Errorf("no answer yet: %w", s.trouble)
}

// call puts a question and decodes the answer of status 200. It returns the status, which
// is 200, or 404 for what is not there to GET. A failure is tried again, within callTimeout
// from when the question could be put; the error holds nothing of question and answer,
// either of which may hold a key.
func (s *service) call(ctx context.Context, from lane, method, path string, question, answer any) (status int, err error) {
	if s.rests(from) {
		return 0, fmt.Errorf("ask %s: %w", s.name, errRests)
	}
	body, err := encode(question)
	if err != nil {
		return 0, fmt.Errorf("ask %s: %w", s.name, err)
	}
	if err := s.enter(ctx, from); err != nil {
		return 0, fmt.Errorf("ask %s: %w", s.name, err)
	}
	defer func() { <-s.slots[from] }()
	if s.rests(from) { // since it waited
		return 0, fmt.Errorf("ask %s: %w", s.name, errRests)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	start := time.Now()
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.Multiplier = firstPause, 2
	status, err = backoff.Retry(ctx, func() (int, error) { return s.attempt(ctx, method, path, body, answer) },
		backoff.WithMaxTries(attempts), backoff.WithMaxElapsedTime(callTimeout), backoff.WithBackOff(pauses))
	outcome := "pass"
	if err != nil {
		outcome = "error"
		err = fmt.Errorf("ask %s: %w", s.name, err)
	}
	s.calls.WithLabelValues(s.name, outcome).Observe(time.Since(start).Seconds())
	if err == nil || !errors.Is(ctx.Err(), context.Canceled) { // the edge's end says nothing about the service
		s.note(from, sha256.Sum256(append([]byte(path+" "), body...)), err)
	}
	return status, err
}

// enter takes a slot of the lane. The error wraps authn.ErrBusy if all are taken.
func (s *service) enter(ctx context.Context, from lane) error {
	timeout := time.NewTimer(slotTimeout)
	defer timeout.Stop()
	select {
	case s.slots[from] <- struct{}{}:
		return nil
	case <-timeout.C:
		return authn.ErrBusy
	case <-ctx.Done():
		return ctx.Err()
	}
}

// encode writes a question as JSON, compact and without escapes for HTML. Nil is none.
func encode(question any) ([]byte, error) {
	if question == nil {
		return nil, nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(question); err != nil {
		return nil, fmt.Errorf("encode question: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// attempt puts a question once. The error is permanent, for backoff, if trying again
// cannot help.
func (s *service) attempt(ctx context.Context, method, path string, body []byte, answer any) (int, error) {
	token, err := s.tokens.get(ctx)
	if err != nil {
		return 0, noToken{err}
	}
	request, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, backoff.Permanent(fmt.Errorf("make request: %w", err))
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("Authorization", "Bearer "+token)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := s.client.Do(request)
	if err != nil {
		return 0, fmt.Errorf("request: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	status := response.StatusCode
	switch {
	case status == http.StatusOK:
		return status, decode(response.Body, answer)
	case status == http.StatusNotFound && method == http.MethodGet:
		return status, nil
	case status == http.StatusUnauthorized:
		s.tokens.reject(token) // another one may be taken: keys were rotated, or clocks differ
		return 0, refusal(status)
	case status == http.StatusTooManyRequests, status >= http.StatusInternalServerError:
		return 0, refusal(status)
	default:
		return 0, backoff.Permanent(refusal(status))
	}
}

func decode(body io.Reader, answer any) error {
	content, err := io.ReadAll(io.LimitReader(body, answerBytes+1))
	switch {
	case err != nil:
		return fmt.Errorf("read answer: %w", err)
	case len(content) > answerBytes:
		return backoff.Permanent(fmt.Errorf("answer is longer than %d bytes", answerBytes))
	case json.Unmarshal(content, answer) != nil:
		return backoff.Permanent(errors.New("answer is not the JSON that was expected"))
	}
	return nil
}

func (s *service) rests(from lane) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.resting[from])
}

// note remembers how a call went, and logs when that changes.
func (s *service) note(from lane, question [32]byte, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.trouble
	s.trouble = err
	if err == nil {
		s.answered, s.resting[from] = true, time.Time{}
		for _, failed := range s.failed {
			clear(failed)
		}
		if before != nil {
			s.log.Info("Drogue's service answers")
		}
		return
	}
	switch refused := refusal(0); {
	case unreachable(err):
		for from := range s.resting {
			s.resting[from] = time.Now().Add(rest)
		}
	case errors.As(err, &refused) && !refused.away():
	default:
		s.failed[from][question] = struct{}{}
		if len(s.failed[from]) >= doubts {
			clear(s.failed[from])
			s.resting[from] = time.Now().Add(rest)
		}
	}
	if before == nil || before.Error() != err.Error() {
		s.log.Warn("Drogue's service does not answer", zap.Error(err))
	}
}

// unreachable reports whether a call failed before the service could see the question.
func unreachable(err error) bool {
	var connection *net.OpError
	return errors.As(err, new(noToken)) || errors.As(err, &connection) && connection.Op == "dial"
}
