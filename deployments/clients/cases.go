package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	caseLimit = time.Minute

	someEvents   = 5  // that a client reads before something happens to it
	missedEvents = 20 // that are sent while it is away
	shortTTL     = 6 * time.Second
	pollEvery    = 20 * time.Millisecond
)

// A testCase is one promise of the contract, tried with one client.
type testCase struct {
	name string
	says string
	try  func(ctx context.Context, t trial) error
}

var cases = []testCase{
	{"public", "the public application, without signing in", tryPublic},
	{"key", "an API key as Authorization: Basic", func(ctx context.Context, t trial) error { return t.trySignIn(ctx, keyHeader) }},
	{"key=", "an API key as ?username=…&api_key=…", func(ctx context.Context, t trial) error { return t.trySignIn(ctx, keyQuery) }},
	{"token", "an OpenID token as Authorization: Bearer", func(ctx context.Context, t trial) error { return t.trySignIn(ctx, tokenAlone) }},
	{"token=", "an OpenID token as ?token=…", func(ctx context.Context, t trial) error { return t.trySignIn(ctx, tokenQuery) }},
	{"refused", "a wrong API key: the client says 403 and fails", tryRefused},
	{"channel", "one channel: exactly its events", tryChannel},
	{"group", "two members: each gets every other event", tryGroup},
	{"resume", "since=cursor: nothing is lost and nothing comes twice", tryResume},
	{"refresh", "RefreshAccessToken: the socket outlives its first token", tryRefresh},
}

// trial is one client in one case.
type trial struct {
	*world
	client client
	folder string // of its own
}

// call asks for the private application, in the way of signing in that the client has.
func (t trial) call() call {
	c := call{edge: t.stack.Edge, application: privateApplication, signIn: keyHeader, user: user, key: t.key}
	if t.client.cannot["key"] != "" {
		c.signIn = keyQuery
	}
	return c
}

// start runs the client.
func (t trial) start(ctx context.Context, c call) (*session, error) {
	cmd, err := t.client.command(ctx, t, c)
	if err != nil {
		return nil, err
	}
	return start(cmd)
}

// withToken lets a call sign in with a token of this life.
func (t trial) withToken(ctx context.Context, c call, how signIn, ttl time.Duration) (call, error) {
	var err error
	c.signIn, c.ttl = how, ttl
	if c.token, err = t.site.token(ctx, ttl); err != nil {
		return c, err
	}
	c.tokenFile = filepath.Join(t.folder, "token")
	return c, t.write(c.tokenFile, c.token)
}

// write replaces a file at once, as everybody should who keeps a token in one.
func (t trial) write(name, content string) error {
	if err := os.WriteFile(name+".new", []byte(content), 0o600); err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("write token: %w", err)
	}
	return nil
}

func tryPublic(ctx context.Context, t trial) error {
	c := t.call()
	c.application = publicApplication
	if !t.client.signsIn {
		c.signIn = anonymous
	}
	s, err := t.start(ctx, c)
	if err != nil {
		return err
	}
	defer s.stop()
	for range 2 {
		e, err := s.next(ctx)
		if err != nil {
			return err
		}
		if e.Application != publicApplication || e.Cursor == "" {
			return fmt.Errorf("not an event of %s with a cursor: %+v", publicApplication, e)
		}
	}
	return nil
}

func (t trial) trySignIn(ctx context.Context, how signIn) error {
	c := t.call()
	c.signIn = how
	if how == tokenAlone || how == tokenQuery {
		var err error
		if c, err = t.withToken(ctx, c, how, freshTTL); err != nil {
			return err
		}
	}
	s, err := t.start(ctx, c)
	if err != nil {
		return err
	}
	defer s.stop()
	_, err = s.inSequence(ctx, 2, 1)
	return err
}

// inSequence reads count events whose numbers grow by step, and gives the last one.
func (s *session) inSequence(ctx context.Context, count, step int) (last event, err error) {
	number := -1
	for range count {
		if last, err = s.next(ctx); err != nil {
			return last, err
		}
		n, err := strconv.Atoi(last.ID)
		if err != nil || last.Application != privateApplication || last.Cursor == "" {
			return last, fmt.Errorf("not a numbered event of %s with a cursor: %+v", privateApplication, last)
		}
		if number >= 0 && n != number+step {
			return last, fmt.Errorf("event %d came behind event %d, want %d", n, number, number+step)
		}
		number = n
	}
	return last, nil
}

func tryRefused(ctx context.Context, t trial) error {
	c := t.call()
	c.key = "wrong"
	s, err := t.start(ctx, c)
	if err != nil {
		return err
	}
	defer s.stop()
	if e, err := s.next(ctx); err == nil {
		return fmt.Errorf("a wrong key got event %s", e.ID)
	}
	select {
	case <-s.ended:
	default:
		return fmt.Errorf("the client did not end; it said: %s", s.report.text())
	}
	if s.err == nil || !strings.Contains(s.report.text(), "403") {
		return fmt.Errorf("the client ended with %w and said: %s; want a failure and 403", cause(s.err), s.report.text())
	}
	return nil
}

func tryChannel(ctx context.Context, t trial) error {
	c := t.call()
	c.channel = channels[1]
	s, err := t.start(ctx, c)
	if err != nil {
		return err
	}
	defer s.stop()
	// The events of a channel are so far apart as there are channels.
	last, err := s.inSequence(ctx, someEvents, len(channels))
	if err == nil && last.Subject != c.channel {
		return fmt.Errorf("an event of channel %q", last.Subject)
	}
	return err
}

// tryRefresh shows that a socket that was opened with a token is still the same when that
// token has ended. A control has shown that it would be closed otherwise.
func tryRefresh(ctx context.Context, t trial) error {
	how := tokenAlone
	if t.client.cannot["token"] != "" {
		how = tokenQuery
	}
	for ttl := shortTTL; ; ttl *= 2 {
		err := t.refresh(ctx, how, ttl)
		if !errors.Is(err, errTooLate) {
			return err
		}
	}
}

var errTooLate = errors.New("the token had ended before the client had its first event")

func (t trial) refresh(ctx context.Context, how signIn, ttl time.Duration) error {
	between, err := newRelay(t.stack.Edge)
	if err != nil {
		return err
	}
	defer between.close()
	c := t.call()
	// Its events are so far apart that drg's token for each of them is within the limits.
	c.edge, c.application = between.addr(), publicApplication
	if c, err = t.withToken(ctx, c, how, ttl); err != nil {
		return err
	}
	end := time.Now().Add(ttl)
	s, err := t.start(ctx, c)
	if err != nil {
		return err
	}
	defer s.stop()
	if _, err := s.next(ctx); err != nil {
		return err
	}
	if time.Now().After(end) {
		return errTooLate // it may have been let in for the clocks' sake
	}
	fresh, err := t.site.token(ctx, freshTTL)
	if err != nil {
		return err
	}
	if t.client.typed {
		_, err = fmt.Fprintf(s.input, "{\"RefreshAccessToken\":%q}\n", fresh)
	} else {
		err = t.write(c.tokenFile, fresh)
	}
	if err != nil {
		return fmt.Errorf("hand over a fresh token: %w", err)
	}
	// Whatever token opened it is older than the first event, and a socket is closed within a
	// second of its token's end.
	for until := time.Now().Add(ttl + 2*time.Second); time.Now().Before(until); {
		if _, err := s.next(ctx); err != nil {
			return err
		}
	}
	if n := between.connections(); n != 1 {
		return fmt.Errorf("the client opened %d connections, want 1", n)
	}
	return nil
}
