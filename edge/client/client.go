// Package client receives the events of an application from Canopy: in order, each once,
// through broken connections, restarts of edges and tokens that expire.
//
//	cfg := client.Config{Edge: "wss://events.example", Application: "my-app", Token: source}
//	for event, err := range client.Events(ctx, cfg) {
//		if err != nil {
//			return err // the stream has ended, and why
//		}
//		if event.Gap != nil {
//			log.Println("events may be missing:", event.Gap.Message)
//			continue
//		}
//		handle(event)
//	}
//
// The client comes back by the README's table of close codes, and resumes behind the last
// event that the loop has taken. What cannot be had any more is told by a gap event, and so is
// an event that is larger than Config.MaxMessage. It
// reads one event, hands it over, and reads the next when the loop asks for it: it holds one
// message in memory, and a loop that is too slow for an application's events is closed by
// the edge and resumes. Pings are answered while the client waits for an event, so the body
// of the loop should take less than the edge's patience: 45 s, and 250 ms in a group, whose
// edge passes over members that owe an answer.
package client

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"time"
)

// steady is how long a connection must have lived to begin anew with counting failures.
const steady = 10 * time.Second

// Events receives events until ctx ends, the loop is left, or the stream ends for good. Only
// in the last case it gives an error, as the last pair, with an Event that is empty. The
// error of a refusal is or wraps a *RefusedError, that of a close a *ClosedError.
//
// Leaving the loop, or ending ctx, closes the socket with 1000. A body that runs when ctx
// ends is not interrupted. An event counts as taken when the body of the loop has come to
// its end: a client that resumes by Config.Since stores the Cursor then.
//
// In a group each event goes to one of the members, at least once. An event is acknowledged
// after its body, when the client reads on or leaves the loop. Where the edge has sent
// several in one go, leaving the loop before the last of them lets them all come again, to
// another member.
func Events(ctx context.Context, cfg Config) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		s := &stream{cfg: cfg, since: cfg.Since, yield: yield}
		if err := cfg.validate(); err != nil {
			yield(Event{}, err)
			return
		}
		s.http = cfg.httpClient()
		defer s.http.CloseIdleConnections()
		if err := s.run(ctx); err != nil {
			yield(Event{}, err)
		}
	}
}

// stream is one loop over events. It belongs to the goroutine of the loop.
type stream struct {
	cfg   Config
	http  *http.Client
	yield func(Event, error) bool

	since     string    // where the next connection begins; "" is from now on
	left      bool      // the loop is over
	opened    bool      // there was a connection before
	failures  int       // in a row
	forbidden int       // refusals with 403 in a row
	away      time.Time // since when there is no connection; zero: not yet
}

// run connects again and again. It returns nil if ctx or the loop ended, and why the stream
// is over otherwise.
func (s *stream) run(ctx context.Context) error {
	s.away = time.Now()
	for {
		err := s.connect(ctx)
		if s.left || ctx.Err() != nil {
			return nil
		}
		s.failures++
		r := ruleFor(err, situation{token: s.cfg.Token != nil, opened: s.opened, forbidden: s.forbidden})
		delay := r.wait(s.failures)
		if r.final || s.cfg.GiveUp > 0 && time.Since(s.away)+delay > s.cfg.GiveUp {
			return fmt.Errorf("receive events of %q: %w", s.cfg.Application, err)
		}
		if s.cfg.OnWait != nil {
			s.cfg.OnWait(err, delay)
		}
		if !pause(ctx, delay) {
			return nil
		}
	}
}

// pause waits, and says whether it was not interrupted.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// take hands an event to the loop and says whether it goes on.
func (s *stream) take(e Event) bool {
	if !s.yield(e, nil) {
		s.left = true
		return false
	}
	s.failures = 0
	if e.Cursor != "" && s.cfg.Group == "" {
		s.since = e.Cursor
	}
	return true
}
