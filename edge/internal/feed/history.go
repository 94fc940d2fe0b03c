package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"canopy/shared/event"
	"canopy/shared/subject"
)

const (
	// denseSpan is how near the next event of an application must be in its stream, in
	// sequences, for an unfiltered batch to cost less than single gets.
	denseSpan = 16

	denseBatch = 256

	// sparseBatch is how many events of one application are asked for together where others'
	// lie between. The server looks for them one after the other, a tenth of a millisecond
	// each, and the stream's writes wait meanwhile, so they are few.
	sparseBatch = 16

	// batchBytes bounds an answer, so that it comes within batchTimeout also over a slow link.
	// What has come of one that does not is kept.
	batchBytes   = 256 << 10
	batchTimeout = 5 * requestTimeout

	// anchorBytes is the largest event that is read once more as a batch's anchor.
	anchorBytes = 32 << 10

	requestTimeout = 2 * time.Second
)

// errNone is returned by history when the stream holds no such message. Only a stream's
// leader decides that.
var errNone = errors.New("no such message")

// message is one event as the stream holds it, or as it was republished.
type message struct {
	sequence uint64
	previous uint64 // sequence before it on its subject, 0 if unknown; only if republished
	labels   labels
	appended int64 // ms since 1970, 0 if unknown
	json     []byte
	headers  int   // bytes beside json that the message keeps in memory
	fault    error // why no socket can get it; its place in the order still counts
}

// messageSize is about what a message needs in memory beside its text.
const messageSize = 192

// size is about what m needs in memory while it is kept.
func (m message) size() int { return messageSize + len(m.json) + m.headers }

// cost is what it costs to read m, where an event costs each if it is small.
func (m message) cost(each int) int { return each + len(m.json)/eventBytes*eventCost }

// history reads stored events from the streams. Its methods may be called from any
// goroutine and are bounded by requestTimeout a request.
type history struct {
	nc       *nats.Conn
	requests prometheus.Counter
	leaders  leaders
}

// last gives the sequence of application's newest event, 0 if there is none, and who says
// so: the stream's leader, since a follower may lag.
func (h *history) last(ctx context.Context, shard int, application string) (uint64, leader, error) {
	m, by, err := h.ask(ctx, shard, map[string]any{"last_by_subj": subject.In(shard, application)}, true)
	if errors.Is(err, errNone) {
		return 0, by, nil
	}
	return m.sequence, by, err
}

// anchor is an event that was read just before, and where the next ones are sought. Any
// replica may answer a batch, and its copy may let events expire sooner than the leader's,
// always the oldest first: one that still has the anchor has all that follow it.
type anchor struct {
	log      event.Log
	sequence uint64 // 0: there is none, and the leader has to say what comes next
	near     bool   // events stood close together there
}

// anchorAfter makes the last of list, which was read from a place on, the anchor of the
// next read, unless it is large.
func anchorAfter(list []message, from event.Cursor) anchor {
	last := list[len(list)-1]
	if len(last.json)+last.headers > anchorBytes {
		return anchor{}
	}
	return anchor{from.Log, last.sequence, (last.sequence-from.Sequence)/uint64(len(list)) < denseSpan}
}

// next gives application's events from a place on, in order: one, or more if there is an
// anchor before; and what reading them cost. It gives errNone if the leader has none,
// errOtherLog if it has another log.
func (h *history) next(ctx context.Context, shard int, application string, from event.Cursor, at anchor) (list []message, cost int, err error) {
	if at.sequence > 0 && at.sequence < from.Sequence {
		list, cost, err = h.behind(ctx, shard, application, from.Sequence, at)
		if err != nil || len(list) > 0 {
			return list, cost, err
		}
	}
	query := map[string]any{"seq": from.Sequence, "next_by_subj": subject.In(shard, application)}
	m, by, err := h.ask(ctx, shard, query, false)
	if by.log != from.Log && (err == nil || errors.Is(err, errNone)) {
		return nil, cost, errOtherLog
	}
	if err != nil {
		return nil, cost, err
	}
	return []message{m}, cost + m.cost(eventCost), nil
}

// behind reads a batch from the anchor on, and gives what it holds of application from
// sequence from on; nothing if whoever answers lacks the anchor. Others' events that come
// with it cost as much.
func (h *history) behind(ctx context.Context, shard int, application string, from uint64, at anchor) (list []message, cost int, err error) {
	each := eventCost
	mine := subject.In(shard, application)
	query := batchQuery{Sequence: at.sequence, Batch: denseBatch}
	if !at.near {
		query.Batch, query.Subject = sparseBatch+1, mine
		each = soughtCost
	}
	first := uint64(0)
	err = h.batch(ctx, shard, query, func(subject string, m message) {
		if first == 0 {
			first = m.sequence
		}
		cost += m.cost(each)
		if subject == mine && m.sequence >= from {
			list = append(list, m)
		}
	})
	if first != at.sequence {
		list = nil
	}
	return list, cost, err
}

// lastUpTo gives the sequence of application's newest event in some replica of its stream,
// and the sequence up to which that replica has the stream. It gives errNone if the replica
// has no event of it.
func (h *history) lastUpTo(ctx context.Context, shard int, application string) (last, upTo uint64, err error) {
	ask, err := json.Marshal(map[string]any{"multi_last": []string{subject.In(shard, application)}, "batch": 1})
	if err != nil {
		return 0, 0, fmt.Errorf("encode question for the last event: %w", err)
	}
	inbox := h.nc.NewRespInbox()
	sub, err := h.nc.SubscribeSync(inbox)
	if err != nil {
		return 0, 0, fmt.Errorf("subscribe to the last event: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	h.requests.Inc()
	if err := h.nc.PublishRequest("$JS.API.DIRECT.GET."+subject.Stream(shard), inbox, ask); err != nil {
		return 0, 0, fmt.Errorf("ask for the last event in %s: %w", subject.Stream(shard), err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for {
		msg, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return 0, 0, fmt.Errorf("read the last event in %s: %w", subject.Stream(shard), err)
		}
		switch status := msg.Header.Get("Status"); status {
		case "":
			last, err = strconv.ParseUint(msg.Header.Get("Nats-Sequence"), 10, 64)
		case "204": // behind it
			upTo, err = strconv.ParseUint(msg.Header.Get("Nats-UpTo-Sequence"), 10, 64)
			return last, upTo, err
		case "404":
			return 0, 0, errNone
		default:
			err = fmt.Errorf("%s %s", status, msg.Header.Get("Description"))
		}
		if err != nil {
			return 0, 0, fmt.Errorf("read the last event in %s: %w", subject.Stream(shard), err)
		}
	}
}

// batchQuery asks for messages of a stream, or of one subject if that is not empty.
type batchQuery struct {
	Sequence uint64 `json:"seq"`
	Batch    int    `json:"batch"`
	MaxBytes int    `json:"max_bytes"`
	Subject  string `json:"next_by_subj,omitempty"`
}

// batch reads messages, and gives each with its subject to visit, in order and without a
// hole. There may be none, and fewer than were asked for if they come slowly. Any replica
// answers.
func (h *history) batch(ctx context.Context, shard int, query batchQuery, visit func(subject string, m message)) error {
	query.MaxBytes = batchBytes
	body, err := json.Marshal(query)
	if err != nil {
		return fmt.Errorf("encode question for a batch: %w", err)
	}
	inbox := h.nc.NewRespInbox()
	sub, err := h.nc.SubscribeSync(inbox)
	if err != nil {
		return fmt.Errorf("subscribe for a batch: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	h.requests.Inc()
	if err := h.nc.PublishRequest("$JS.API.DIRECT.GET."+subject.Stream(shard), inbox, body); err != nil {
		return fmt.Errorf("ask for a batch: %w", err)
	}
	timed, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	stuck := time.AfterFunc(requestTimeout, cancel)
	defer stuck.Stop()
	var lastSeen uint64
	for {
		msg, err := sub.NextMsgWithContext(timed)
		stuck.Reset(requestTimeout)
		if err != nil && ctx.Err() == nil && timed.Err() != nil {
			if lastSeen > 0 {
				return nil // the rest is asked for again
			}
			err = nats.ErrTimeout
		}
		if err != nil {
			return fmt.Errorf("read a batch from %s: %w", subject.Stream(shard), err)
		}
		switch status := msg.Header.Get("Status"); status {
		case "":
		case "204": // the end; it names the last sequence sent, so that a loss shows
			if end, err := strconv.ParseUint(msg.Header.Get("Nats-Last-Sequence"), 10, 64); err != nil || end != lastSeen {
				return fmt.Errorf("read a batch from %s: it was cut at %d of %d", subject.Stream(shard), lastSeen, end)
			}
			return nil
		case "404":
			return nil // the caller asks for a single one, and the leader decides
		default:
			return fmt.Errorf("read a batch from %s: %s %s", subject.Stream(shard), status, msg.Header.Get("Description"))
		}
		m, err := parseMessage(msg)
		if err != nil {
			return err
		}
		if before, _ := strconv.ParseUint(msg.Header.Get("Nats-Last-Sequence"), 10, 64); before != lastSeen {
			return fmt.Errorf("read a batch from %s: %d came after %d, not %d", subject.Stream(shard), m.sequence, lastSeen, before)
		}
		lastSeen = m.sequence
		visit(msg.Header.Get("Nats-Subject"), m)
	}
}

// stored puts one question to whoever believes to be the stream's leader.
func (h *history) stored(ctx context.Context, shard int, query map[string]any) (message, error) {
	var answer struct {
		Message struct {
			Sequence uint64 `json:"seq"`
			Header   []byte `json:"hdrs"`
			Data     []byte `json:"data"`
		} `json:"message"`
		Error *apiError `json:"error"`
	}
	if err := h.request(ctx, "$JS.API.STREAM.MSG.GET."+subject.Stream(shard), query, &answer); err != nil {
		return message{}, fmt.Errorf("ask the leader of %s: %w", subject.Stream(shard), err)
	}
	if answer.Error != nil {
		if answer.Error.ErrCode == noMessageFound {
			return message{}, errNone
		}
		return message{}, fmt.Errorf("ask the leader of %s: %w", subject.Stream(shard), answer.Error)
	}
	header, err := nats.DecodeHeadersMsg(answer.Message.Header)
	if err != nil && len(answer.Message.Header) > 0 {
		return message{}, fmt.Errorf("read headers of %s %d: %w", subject.Stream(shard), answer.Message.Sequence, err)
	}
	m := message{sequence: answer.Message.Sequence, json: answer.Message.Data, headers: len(answer.Message.Header)}
	m.fault = m.readLabels(header)
	return m, nil
}

const noMessageFound = 10037

// readLabels reads what filters and metrics need and checks that the body can take a
// cursor: the log may hold what some other publisher put there.
func (m *message) readLabels(header nats.Header) error {
	if n := len(m.json); n < len(`{"a":0}`) || m.json[0] != '{' || m.json[n-1] != '}' {
		return fmt.Errorf("event %d is not a JSON object", m.sequence)
	}
	var err1, err2 error
	m.labels.channel, m.labels.hasChannel, err1 = label(header, event.HeaderChannel)
	m.labels.device, m.labels.hasDevice, err2 = label(header, event.HeaderDevice)
	m.appended, _ = strconv.ParseInt(header.Get(event.HeaderAppended), 10, 64)
	return errors.Join(err1, err2)
}

func label(header nats.Header, name string) (string, bool, error) {
	values := header[name]
	if len(values) == 0 {
		return "", false, nil
	}
	value, err := event.UnescapeHeader(values[0])
	if err != nil {
		return "", false, fmt.Errorf("read %s: %w", name, err)
	}
	return value, true, nil
}
