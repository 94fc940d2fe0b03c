package load

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// Fast batches as ingest publishes them (nats-server 2.14 and later): the same flow, as
// much ahead of the acknowledgements, and as long.
const (
	batchFlow  = 128
	batchAhead = 4 * batchFlow
	batchAge   = 200 * time.Millisecond
)

const (
	batchStart = iota
	batchAppend
	batchCommit
)

// batchAnswer is an acknowledgement inside a batch, or the one at its end, which has no
// type.
type batchAnswer struct {
	Type  string          `json:"type"`
	Seq   uint64          `json:"seq"`
	Count uint64          `json:"count"`
	Error json.RawMessage `json:"error"`
}

// batcher publishes messages in fast batches, one after the other.
type batcher struct {
	nc      *nats.Conn
	answers *nats.Subscription
	inbox   string
	batches int
}

// Messages makes the next events, ready to be published.
func (s *Stream) Messages(events int) []*nats.Msg {
	list := make([]*nats.Msg, events)
	for i := range list {
		list[i] = s.message()
	}
	return list
}

// PublishBatches publishes messages to JetStream by fast batches, and returns when all are
// stored.
func PublishBatches(ctx context.Context, nc *nats.Conn, messages []*nats.Msg) error {
	b := &batcher{nc: nc, inbox: nats.NewInbox()}
	var err error
	if b.answers, err = nc.SubscribeSync(b.inbox + ".>"); err != nil {
		return fmt.Errorf("subscribe to acknowledgements: %w", err)
	}
	defer func() { _ = b.answers.Unsubscribe() }() // fails only if the connection is closed
	for len(messages) > 0 {
		n, err := b.publish(ctx, messages)
		if err != nil {
			return fmt.Errorf("publish a batch: %w", err)
		}
		messages = messages[n:]
	}
	return nil
}

// publish publishes one batch, from the front of messages, and gives its length.
func (b *batcher) publish(ctx context.Context, messages []*nats.Msg) (int, error) {
	b.batches++
	began := time.Now()
	var sent, acknowledged uint64
	for ended := false; ; {
		for !ended && sent-acknowledged < batchAhead {
			sent++
			operation := batchAppend
			if ended = sent == uint64(len(messages)) || time.Since(began) >= batchAge; ended {
				operation = batchCommit
			} else if sent == 1 {
				operation = batchStart
			}
			m := messages[sent-1]
			m.Reply = fmt.Sprintf("%s.%d.%d.fail.%d.%d.$FI", b.inbox, b.batches, batchFlow, sent, operation)
			if err := b.nc.PublishMsg(m); err != nil {
				return 0, err
			}
		}
		a, err := b.answer(ctx)
		switch {
		case err != nil:
			return 0, err
		case a.Type == "ack":
			acknowledged = max(acknowledged, a.Seq)
		case a.Type != "" || a.Error != nil || !ended || a.Count != sent:
			return 0, fmt.Errorf("of %s messages %d were stored: %s %s", strconv.FormatUint(sent, 10), a.Count, a.Type, a.Error)
		default:
			return int(sent), nil
		}
	}
}

func (b *batcher) answer(ctx context.Context) (a batchAnswer, err error) {
	m, err := b.answers.NextMsgWithContext(ctx)
	if err != nil {
		return a, fmt.Errorf("wait for an acknowledgement: %w", err)
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return a, fmt.Errorf("read an acknowledgement: %q: %w", m.Data, err)
	}
	return a, nil
}

// PublishLive publishes messages, the first of which has that sequence in its stream, to
// those who listen, as if the stream had just stored them. The stream knows nothing of it.
func PublishLive(nc *nats.Conn, messages []*nats.Msg, subject string, sequence uint64) error {
	for i, m := range messages {
		n := sequence + uint64(i)
		m.Header.Set("Nats-Sequence", strconv.FormatUint(n, 10))
		m.Header.Set("Nats-Last-Sequence", strconv.FormatUint(n-1, 10))
		m.Subject = subject
	}
	for _, m := range messages {
		if err := nc.PublishMsg(m); err != nil {
			return fmt.Errorf("publish to %s: %w", subject, err)
		}
	}
	if err := nc.Flush(); err != nil {
		return fmt.Errorf("publish to %s: %w", subject, err)
	}
	return nil
}
