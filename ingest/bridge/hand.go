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
	malformed *prometheus.CounterVec
	misnamed  *prometheus.CounterVec

	// What happens in one log does not silence the other.
	logMalformed, logMisnamed sampledLog
}

const (
	modeBinary     = "binary"
	modeStructured = "structured"
)

func newHand(shards int, c *convert.Converter, p *publish.Publisher, log *zap.Logger, reg prometheus.Registerer) *hand {
	return &hand{
		shards:    shards,
		converter: c,
		publisher: p,
		malformed: obs.Counters(reg, "canopy_ingest_malformed_total",
			"Records that were skipped, by reason: they are no CloudEvents, or may not be of the application that they name.", "reason"),
		misnamed: obs.Counters(reg, "canopy_ingest_misnamed_total",
			"Events that name another application than that of their topic, which they were given to, by the record's mode.",
			"mode", modeBinary, modeStructured),
		logMalformed: newSampledLog(log),
		logMisnamed:  newSampledLog(log),
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
	if e.Misnamed {
		h.tellMisnamed(&r, &e)
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

// skip counts and logs a record that becomes no event, without any of its contents.
func (h *hand) skip(r *consume.Record, err error) {
	reason, why := "unknown", err.Error()
	var m *convert.Malformed
	if errors.As(err, &m) {
		reason = m.Reason
	}
	h.malformed.WithLabelValues(reason).Inc()
	h.logMalformed.warn("record skipped: it is no event of an application", r, zap.String("reason", reason), zap.String("why", why))
}

// tellMisnamed counts and logs an event that names another application than its topic's.
// That name is the sender's, and so is not logged.
func (h *hand) tellMisnamed(r *consume.Record, e *convert.Event) {
	mode := modeBinary
	if e.Structured {
		mode = modeStructured
	}
	h.misnamed.WithLabelValues(mode).Inc()
	h.logMisnamed.warn("event names another application: its topic's gets it", r, zap.String("mode", mode))
}

// sampledLog logs records at a bounded rate: a whole topic of them must not fill a disk. It
// is for one goroutine.
type sampledLog struct {
	log      *zap.Logger
	limit    *rate.Limiter
	silenced int // records that were not logged since the last that was
}

func newSampledLog(log *zap.Logger) sampledLog {
	return sampledLog{log: log, limit: rate.NewLimiter(rate.Every(time.Second), 10)}
}

func (l *sampledLog) warn(text string, r *consume.Record, more ...zap.Field) {
	if !l.limit.Allow() {
		l.silenced++
		return
	}
	l.log.Warn(text, append(more, zap.String("topic", r.Topic), zap.Int32("partition", r.Number),
		zap.Int64("offset", r.Offset), zap.Int("not_logged_before", l.silenced))...)
	l.silenced = 0
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
