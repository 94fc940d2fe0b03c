package feed

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"canopy/shared/event"
	"canopy/shared/subject"
)

const (
	// liveWithin is how lately a stream's leader must have heard from a majority of its
	// replicas to be believed. They answer it every second or two; and for 4 s after one
	// has heard from its leader it helps no other one to be elected (nats-server's
	// minElectionTimeout).
	liveWithin = 3 * time.Second

	// leadTime is for how long after it was asked such a leader surely stays the only one:
	// what is left of those 4 s, but for the time that answers are on their way. Without
	// this a leader that was cut off would be believed until it gives up, after 10 to 20 s.
	leadTime = 750 * time.Millisecond

	// leaderRetry is how long a leader that did not answer, or is not to be believed, is
	// not asked again: whoever needs it has to wait anyway.
	leaderRetry = 200 * time.Millisecond

	// moves is how often a question is put whose answer came while the leader changed.
	moves = 3
)

var (
	// errNoMajority says that a stream's leader may have been replaced without knowing it.
	errNoMajority = errors.New("the leader has not heard from a majority of the stream's replicas lately")
	// errMoved says that a stream's leader changed, or the stream, while it was asked.
	errMoved = errors.New("the stream's leader has changed")
	// errBehind says that a stream's leader lacks what others have had from that stream.
	errBehind = errors.New("the leader's log ends before what came from the stream")
)

// leader is what the leader of a stream has said about itself.
type leader struct {
	log   event.Log
	first uint64 // sequence in the stream, of any application
	last  uint64 // likewise
	whole bool   // the stream has everything between the two, of all applications
	name  string
	since string    // when its term began, as it says; empty if the stream has one replica
	asked time.Time // just before it was
}

// complete says whether the stream surely holds every event behind sequence after, of any
// application.
func (l leader) complete(after uint64) bool { return l.whole && l.first <= after+1 }

// same says whether l and m are the same term of the same stream's leader, so that no
// other one has taken a message between the two answers.
func (l leader) same(m leader) bool {
	return l.log == m.log && l.name == m.name && l.since == m.since
}

// clusterInfo is what STREAM.INFO says of a stream's replicas. A leader counts itself not.
type clusterInfo struct {
	Leader   string `json:"leader"`
	Since    string `json:"leader_since"`
	Replicas []struct {
		Active time.Duration `json:"active"` // since it was heard from; 0 if it never was
	} `json:"replicas"`
}

// live says whether the leader has heard from a majority of replicas lately, itself
// included. Only it can know that, so a stream without a leader is not live.
func (c clusterInfo) live(replicas int) bool {
	alive := 1
	for _, r := range c.Replicas {
		if r.Active > 0 && r.Active <= liveWithin {
			alive++
		}
	}
	all := max(replicas, len(c.Replicas)+1)
	return all == 1 || c.Leader != "" && alive > all/2
}

// leaders remembers what the streams' leaders have said lately, so that many who need to
// know cost one question. Any goroutine may call it.
type leaders struct {
	asking singleflight.Group // by shard

	mu    sync.Mutex
	words map[int]leaderWord
}

type leaderWord struct {
	leader
	err error
	at  time.Time // of the answer
}

func (l *leaders) note(shard int, by leader, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.words == nil {
		l.words = map[int]leaderWord{}
	}
	if old := l.words[shard]; by.asked.Before(old.asked) {
		return
	}
	l.words[shard] = leaderWord{by, err, time.Now()}
}

// recall gives what shard's leader has said when it was asked at that time or later, or
// why it is too early to ask again. It is false if there is neither.
func (l *leaders) recall(shard int, since time.Time) (leader, error, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w, ok := l.words[shard]
	if ok && w.err != nil {
		return leader{}, w.err, time.Since(w.at) < leaderRetry
	}
	return w.leader, nil, ok && !w.asked.Before(since)
}

// lead gives what the leader of shard's stream has said when it was asked at that time or
// later. The error says that it does not answer or is not to be believed.
func (h *history) lead(ctx context.Context, shard int, since time.Time) (leader, error) {
	for {
		if l, err, ok := h.leaders.recall(shard, since); ok {
			return l, err
		}
		result := h.leaders.asking.DoChan(strconv.Itoa(shard), func() (any, error) {
			s, err := h.state(context.WithoutCancel(ctx), shard, "") // others wait for it, too
			return s.leader, err
		})
		select {
		case r := <-result:
			if r.Err != nil {
				return leader{}, r.Err
			}
			if l := r.Val.(leader); !l.asked.Before(since) {
				return l, nil
			} // else it had been asked already when we came
		case <-ctx.Done():
			return leader{}, ctx.Err()
		}
	}
}

// ask puts one question to the leader of shard's stream, and believes the answer, also
// that there is no such message, only from one that surely leads. by has said so before
// the question or, if sure, before and after it.
func (h *history) ask(ctx context.Context, shard int, query map[string]any, sure bool) (m message, by leader, err error) {
	by, err = h.lead(ctx, shard, time.Now().Add(-leadTime))
	if err != nil {
		return message{}, leader{}, err
	}
	for range moves {
		m, err = h.stored(ctx, shard, query)
		if err != nil && !errors.Is(err, errNone) {
			return message{}, leader{}, err
		}
		now := time.Now()
		if !sure && now.Sub(by.asked) < leadTime {
			return m, by, err
		}
		before := by
		var failed error
		if by, failed = h.lead(ctx, shard, now); failed != nil {
			return message{}, leader{}, failed
		}
		if by.same(before) {
			return m, by, err
		}
	}
	return message{}, leader{}, fmt.Errorf("ask the leader of %s: %w", subject.Stream(shard), errMoved)
}

// last is the place of the application's newest event in the stream as it is now, with
// sequence 0 if there is none. The leader who says so has all that the feed has had.
func (f *Feed) last(ctx context.Context) (event.Cursor, error) {
	c, _, err := f.lastBy(ctx)
	return c, err
}

// lastBy gives last, and what its leader has said about itself after that.
func (f *Feed) lastBy(ctx context.Context) (c event.Cursor, by leader, err error) {
	had := f.newest()
	err = f.request(ctx, func(h *history) error {
		var sequence uint64
		sequence, by, err = h.last(ctx, f.shard, f.application)
		if err == nil && by.log == had.Log && by.last < had.Sequence {
			err = errBehind
		}
		c = event.Cursor{Log: by.log, Sequence: sequence}
		return err
	})
	return c, by, err
}

// lastThrough gives what lastBy does, with the sequence up to which the stream had come
// before, at that time or later.
func (f *Feed) lastThrough(ctx context.Context, since time.Time) (w lastWord, by leader, err error) {
	var before leader
	err = f.request(ctx, func(h *history) (err error) {
		before, err = h.lead(ctx, f.shard, since)
		return err
	})
	if err != nil {
		return w, by, err
	}
	w.last, by, err = f.lastBy(ctx)
	w.through = w.last.Sequence
	if before.log == w.last.Log {
		w.through = max(w.through, before.last)
	}
	return w, by, err
}

// reaches makes sure that the stream's leader leads and has a place of the log, so that what
// it lacks up to there is not to come. The error may be errOtherLog.
func (f *Feed) reaches(ctx context.Context, c event.Cursor) error {
	now := time.Now()
	return f.request(ctx, func(h *history) error {
		by, err := h.lead(ctx, f.shard, now)
		switch {
		case err != nil:
			return err
		case by.log != c.Log:
			return errOtherLog
		case by.last < c.Sequence:
			return errBehind
		}
		return nil
	})
}
