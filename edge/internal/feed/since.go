package feed

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"canopy/shared/event"
)

// Since says where a socket begins. The zero value is now.
type Since struct {
	kind   sinceKind
	cursor event.Cursor
	at     time.Time
	owner  string
}

type sinceKind uint8

const (
	fromNow sinceKind = iota
	fromCursor
	fromTime
	fromEarliest
)

const earliest = "earliest"

// earliestTime and latestTime are the first and the last moment that a stream's times can be
// compared with: they are nanoseconds since 1970 in 64 bits.
var (
	earliestTime = time.Unix(0, 0)
	latestTime   = time.Unix(0, math.MaxInt64)
)

// ErrSince is wrapped by ParseSince's error, whose text is fit for clients.
var ErrSince = errors.New("expected a cursor, an RFC 3339 time or " + earliest)

// ParseSince reads what a client asks for: a cursor (the events behind it), a time (those
// that were stored then or later; one in the future is now) or "earliest".
func ParseSince(text string) (Since, error) {
	if text == earliest {
		return Since{kind: fromEarliest}, nil
	}
	if c, err := event.ParseCursor(text); err == nil {
		return Since{kind: fromCursor, cursor: c}, nil
	}
	// In a query a plus sign that was not escaped means a space.
	at, err := time.Parse(time.RFC3339, strings.Replace(text, " ", "+", 1))
	if err != nil {
		return Since{}, fmt.Errorf("%w: %.64q", ErrSince, text)
	}
	switch {
	case at.After(latestTime):
		return Since{}, nil
	case at.Before(earliestTime):
		at = earliestTime // nothing was stored before
	}
	return Since{kind: fromTime, at: at}, nil
}

// For gives since with the name of the reader for whom the log is read: what that costs
// counts for all sockets of one name together.
func (s Since) For(reader string) Since {
	s.owner = reader
	return s
}

// entry is what has to be found out about a socket's place before it gets events.
type entry uint8

const (
	entered        entry = iota // nothing
	entryCheck                  // whether the place is in this log at all
	entryCheckLate              // the same, after the feed has had time to catch up
	entryForgotten              // nothing, but events before it may be missing
)

// begin is where a socket begins: behind a place in the log, unless that is now.
type begin struct {
	now    bool
	cursor event.Cursor
	entry  entry
	owner  string // see Since.For
}

// find says where since is.
func (f *Feed) find(ctx context.Context, since Since) (begin, error) {
	switch since.kind {
	case fromCursor:
		return begin{cursor: since.cursor, entry: entryCheck}, nil
	case fromEarliest, fromTime:
	default:
		return begin{now: true}, nil
	}
	a := f.hub.accounts.open(since.owner)
	defer f.hub.accounts.leave(a)
	if err := f.hub.accounts.await(ctx, a, f.hub.now); err != nil {
		return begin{}, err
	}
	x, err := f.fly(since, a)
	if err != nil {
		return begin{}, err
	}
	defer f.finding.leave(x)
	select {
	case <-x.done:
	case <-ctx.Done():
		return begin{}, ctx.Err()
	}
	if x.err != nil {
		return begin{}, fmt.Errorf("%w: %w", ErrUnavailable, x.err)
	}
	return x.at, nil
}

// newest is the place up to which the feed has had all events in order: that of its newest
// one, or one behind it where the stream has none.
func (f *Feed) newest() event.Cursor {
	f.mu.Lock()
	defer f.mu.Unlock()
	return event.Cursor{Log: f.log(), Sequence: f.chain.known()}
}

func (f *Feed) findEarliest(ctx context.Context) (begin, error) {
	b := begin{cursor: f.newest()} // before asking: nothing that comes meanwhile is missed
	oldest, err := f.oldest(ctx)
	if err == nil {
		b.cursor.Sequence = oldest - 1
	} else if !errors.Is(err, errNone) {
		return begin{}, err
	}
	return b, nil
}

func (f *Feed) findTime(ctx context.Context, at time.Time) (begin, error) {
	// First, since what comes between the questions is later than both; and the leader's
	// word, since what the feed has not had yet may be older than that time.
	known := f.newest()
	last, err := f.last(ctx)
	if err != nil {
		return begin{}, err
	}
	b := begin{cursor: last}
	var first uint64
	err = f.request(ctx, func(h *history) (err error) {
		first, err = h.firstSince(ctx, f.shard, f.application, at)
		return err
	})
	if errors.Is(err, errNone) && last.Sequence == 0 {
		b.cursor = known // there is nothing, or all of it is forgotten
		return f.keptSince(ctx, b, at)
	}
	if errors.Is(err, errNone) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.log() == b.cursor.Log {
			f.expect(b.cursor.Sequence)
		}
		return b, nil
	}
	if err != nil {
		return begin{}, err
	}
	b.cursor.Sequence = first - 1
	oldest, err := f.oldest(ctx)
	if err == nil && oldest < first {
		return b, nil // what the log holds reaches back behind that time
	}
	if err != nil && !errors.Is(err, errNone) {
		return begin{}, err
	}
	return f.keptSince(ctx, b, at)
}

// keptSince notes in b whether events that were stored at that time or later may have been
// forgotten.
func (f *Feed) keptSince(ctx context.Context, b begin, at time.Time) (begin, error) {
	s, err := f.state(ctx)
	if err != nil {
		return begin{}, err
	}
	if !s.keepsSince(at) {
		b.entry = entryForgotten
	}
	return b, nil
}

// oldest is the sequence of the oldest event that the stream holds of the application,
// or errNone.
func (f *Feed) oldest(ctx context.Context) (oldest uint64, err error) {
	err = f.request(ctx, func(h *history) (err error) {
		oldest, err = h.oldest(ctx, f.shard, f.application)
		return err
	})
	return oldest, err
}

// state is what the stream's leader says, who has all that the feed has had.
func (f *Feed) state(ctx context.Context) (s streamState, err error) {
	had := f.newest()
	err = f.request(ctx, func(h *history) (err error) {
		s, err = h.state(ctx, f.shard, f.application)
		return err
	})
	if err == nil && s.log == had.Log && s.last < had.Sequence {
		err = errBehind
	}
	return s, err
}

func (f *Feed) request(ctx context.Context, do func(*history) error) error {
	return f.hub.request(ctx, f.shard, func() error { return do(f.hub.history) })
}
