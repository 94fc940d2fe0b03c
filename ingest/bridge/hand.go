package bridge

import (
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"canopy/ingest/internal/consume"
	"canopy/ingest/internal/convert"
	"canopy/ingest/internal/publish"
	"canopy/shared/event"
	"canopy/shared/obs"
	"canopy/shared/subject"
)

// hand takes records from the consumer, has them converted and gives them to the
// publisher. Its methods, except Forget, are for the consumer's one goroutine.
type hand struct {
	shards    int
	converter *convert.Converter
	publisher *publish.Publisher
	log       *zap.Logger
	malformed *prometheus.CounterVec
	limit     *rate.Limiter
	silenced  int // malformed records that were not logged since the last that was
}

func newHand(shards int, c *convert.Converter, p *publish.Publisher, log *zap.Logger, reg prometheus.Registerer) *hand {
	return &hand{
		shards:    shards,
		converter: c,
		publisher: p,
		log:       log,
		malformed: obs.Counters(reg, "canopy_ingest_malformed_total",
			"Records that are no CloudEvents and were skipped, by reason.", "reason"),
		limit: rate.NewLimiter(rate.Every(time.Second), 10),
	}
}

// Take implements consume.Sink.
func (h *hand) Take(r consume.Record) {
	e, err := h.converter.Convert(r.Record)
	if err != nil {
		h.skip(&r, err)
		r.Partition.Settled(r.Index, publish.Refused)
		return
	}
	shard := subject.Shard(e.Application, h.shards)
	h.publisher.Publish(&publish.Message{
		Shard:       shard,
		Subject:     subject.In(shard, e.Application),
		Application: e.Application,
		ID:          messageID(&r),
		Header:      headers(&r, &e),
		Data:        e.JSON,
		Owner:       r.Partition,
		Index:       r.Index,
	})
}

// Flush implements consume.Sink.
func (h *hand) Flush() { h.publisher.Flush() }

// Forget implements consume.Sink.
func (h *hand) Forget(o publish.Owner) { h.publisher.Forget(o) }

// skip counts and logs a record that is no event, without any of its contents. The log
// is sampled: a whole topic of such records must not fill a disk.
func (h *hand) skip(r *consume.Record, err error) {
	reason, why := "unknown", err.Error()
	var m *convert.Malformed
	if errors.As(err, &m) {
		reason = m.Reason
	}
	h.malformed.WithLabelValues(reason).Inc()
	if !h.limit.Allow() {
		h.silenced++
		return
	}
	h.log.Warn("record skipped: it is not a CloudEvent", zap.String("topic", r.Topic), zap.Int32("partition", r.Number),
		zap.Int64("offset", r.Offset), zap.String("reason", reason), zap.String("why", why), zap.Int("not_logged_before", h.silenced))
	h.silenced = 0
}

// messageID names a record for JetStream's duplicate detection: topic, partition and
// offset, and which of several topics of that name it is. Without that the records of a
// topic that is deleted and made again would be taken for repeats of the old one's.
func messageID(r *consume.Record) string {
	b := make([]byte, 0, len(r.Topic)+len(r.Incarnation)+24)
	b = append(b, r.Topic...)
	b = append(b, '/')
	b = strconv.AppendInt(b, int64(r.Number), 10)
	b = append(b, '/')
	b = strconv.AppendInt(b, r.Offset, 10)
	if r.Incarnation != "" {
		b = append(b, '/')
		b = append(b, r.Incarnation...)
	}
	return string(b)
}

func headers(r *consume.Record, e *convert.Event) nats.Header {
	values := make([]string, 0, 3) // one array for all values
	h := make(nats.Header, 4)
	set := func(name, value string) {
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
	set(event.HeaderAppended, strconv.FormatInt(r.Timestamp.UnixMilli(), 10))
	if e.HasChannel {
		set(event.HeaderChannel, event.EscapeHeader(e.Channel))
	}
	if e.HasDevice {
		set(event.HeaderDevice, event.EscapeHeader(e.Device))
	}
	return h
}
