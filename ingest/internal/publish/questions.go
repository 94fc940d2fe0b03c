package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"canopy/shared/subject"
)

const (
	// One question is about many applications, since each costs the stream little more than
	// to send the last events; but its writes wait meanwhile, so it is not about all.
	questionsAtOnce    = 64
	questionBytes      = 256 << 10 // of events; those that do not fit are asked for again
	questionsPerSecond = 100       // 6,400 applications, of all streams
	questionTimeout    = time.Second
	questionPause      = time.Second // for a stream that has not answered
	questionTries      = 8           // then the next beacon asks again
)

// questions holds the applications whose last sequences the streams have to be asked for.
// Any goroutine may call its methods.
type questions struct {
	limit int           // applications of one shard
	added chan struct{} // holds a token when add has been called

	mu     sync.Mutex
	shards []inQuestion
	first  int // shard whose turn it is
}

// inQuestion is what waits of one shard, in order.
type inQuestion struct {
	about     map[string]beacon
	order     []string // the keys of about
	notBefore time.Time
}

func newQuestions(shards, limit int) *questions {
	return &questions{limit: limit, added: make(chan struct{}, 1), shards: make([]inQuestion, shards)}
}

// add notes that something has to be asked for b. What waits of the application is replaced
// and keeps its turn. An application for which there is no room is left out, until its next
// beacon is due.
func (q *questions) add(shard int, b beacon) {
	q.mu.Lock()
	q.put(shard, b)
	q.mu.Unlock()
	select {
	case q.added <- struct{}{}:
	default:
	}
}

// put adds b. mu is held.
func (q *questions) put(shard int, b beacon) {
	s := &q.shards[shard]
	_, waits := s.about[b.application]
	if !waits {
		if len(s.about) >= q.limit {
			return
		}
		if s.about == nil {
			s.about = make(map[string]beacon)
		}
		s.order = append(s.order, b.application)
	}
	s.about[b.application] = b
}

// putBack adds those of list of which nothing newer waits, for a time after notBefore.
func (q *questions) putBack(shard int, list []beacon, notBefore time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.shards[shard].notBefore = notBefore
	for _, b := range list {
		if _, newer := q.shards[shard].about[b.application]; !newer {
			q.put(shard, b)
		}
	}
}

// triedAgain gives those of list that may be asked for once more.
func triedAgain(list []beacon) (again []beacon) {
	for _, b := range list {
		if b.tries++; b.tries < questionTries {
			again = append(again, b)
		}
	}
	return again
}

// take gives some questions to one shard's stream, in turn. Without any that may be asked
// at now it gives none, and says whether others wait.
func (q *questions) take(now time.Time) (shard int, list []beacon, waiting bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for range q.shards {
		shard = q.first
		q.first = (q.first + 1) % len(q.shards)
		s := &q.shards[shard]
		if len(s.order) == 0 {
			continue
		}
		waiting = true
		if now.Before(s.notBefore) {
			continue
		}
		n := min(len(s.order), questionsAtOnce)
		for _, name := range s.order[:n] {
			list = append(list, s.about[name])
			delete(s.about, name)
		}
		if s.order = s.order[n:]; len(s.order) == 0 {
			s.about, s.order = nil, nil // neither gives its room back by itself
		}
		return shard, list, true
	}
	return 0, nil, waiting
}

// lastSequences asks any replica of shard's stream for the last sequences of applications,
// by name. Those that are missing have no event, or, if there is more, are not known yet.
// The replica has everything up to sequence through.
func (b *beacons) lastSequences(ctx context.Context, shard int, list []beacon) (last map[string]uint64, through uint64, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	names := make(map[string]string, len(list))
	subjects := make([]string, len(list))
	for i, d := range list {
		subjects[i] = subject.In(shard, d.application)
		names[subjects[i]] = d.application
	}
	ask, err := json.Marshal(map[string]any{"multi_last": subjects, "batch": len(subjects), "max_bytes": questionBytes})
	if err != nil {
		return nil, 0, false, fmt.Errorf("ask for last sequences: %w", err)
	}
	inbox := b.p.nc.NewInbox()
	sub, err := b.p.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, 0, false, fmt.Errorf("subscribe to last sequences: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := b.p.nc.PublishRequest("$JS.API.DIRECT.GET."+subject.Stream(shard), inbox, ask); err != nil {
		return nil, 0, false, fmt.Errorf("ask for last sequences: %w", err)
	}
	last = make(map[string]uint64, len(list))
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, 0, false, fmt.Errorf("read last sequences: %w", err)
		}
		switch status := m.Header.Get("Status"); status {
		case "":
			sequence, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
			name, asked := names[m.Header.Get("Nats-Subject")]
			if err != nil || !asked {
				return nil, 0, false, errors.New("read last sequences: an answer to something else")
			}
			last[name] = sequence
		case "204":
			through, more, err = endOfAnswer(m)
			return last, through, more, err
		case "404":
			return last, 0, false, nil
		default:
			return nil, 0, false, fmt.Errorf("read last sequences: %s %s", status, m.Header.Get("Description"))
		}
	}
}

// endOfAnswer reads the message behind the last event.
func endOfAnswer(m *nats.Msg) (through uint64, more bool, err error) {
	through, err = strconv.ParseUint(m.Header.Get("Nats-UpTo-Sequence"), 10, 64)
	if err != nil {
		return 0, false, fmt.Errorf("read the end of last sequences: %w", err)
	}
	return through, m.Header.Get("Nats-Num-Pending") != "0", nil
}
