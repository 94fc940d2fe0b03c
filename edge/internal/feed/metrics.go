package feed

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"canopy/shared/event"
)

// metrics count what feeds do. Their names begin with canopy_edge_.
type metrics struct {
	events, foreign, faults                         prometheus.Counter
	holes, repairs, repaired, repairErrors, dropped prometheus.Counter
	writes, deliveries, bytes, lagged, pressed      prometheus.Counter
	beacons, looks, requests, moves                 prometheus.Counter
	replays, replayReads, replayed                  prometheus.Counter
	gaps                                            *prometheus.CounterVec
	age                                             prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, h *Hub) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "canopy_edge_" + name, Help: help})
		reg.MustRegister(c)
		return c
	}
	gauge := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "canopy_edge_" + name, Help: help}, value))
	}
	gauge("feeds", "Applications that this edge follows.", func() float64 { return float64(h.size()) })
	gauge("feed_bytes", "Bytes of events kept for sockets that lag.", func() float64 { return float64(h.budget.size()) })
	gauge("socket_bytes", "Bytes that wait for stalled sockets.", func() float64 { return float64(h.config.Held()) })
	gauge("replaying", "Sockets that get events from the stream now.", func() float64 { return float64(h.replaying()) })
	gauge("replays_waiting", "Sockets that wait until more may be read from the log for their user or address.", func() float64 { return float64(h.accounts.waiting()) })
	gauge("compressed_sockets", "Sockets that get compressed events, those of groups apart.", func() float64 { return float64(h.packing()) })
	gauge("waiting_bytes", "Bytes of live events that wait for a repair.", func() float64 { return float64(h.room.used()) })
	gauge("repair_bytes", "Bytes of streams kept for feeds that miss the same events.", func() float64 { return float64(h.shelf.size()) })
	gauge("replay_bytes", "Bytes of streams kept for sockets that resume.", func() float64 { return float64(h.kept.size()) })
	m := &metrics{
		events:       counter("events_total", "Events appended to feeds."),
		foreign:      counter("foreign_messages_total", "Messages on our subjects that no stream had republished."),
		faults:       counter("faulty_events_total", "Stored messages that are no events."),
		holes:        counter("feed_holes_total", "Times that a message was missing from a feed."),
		repairs:      counter("feed_repairs_total", "Times that a feed read from its stream."),
		repaired:     counter("feed_repaired_events_total", "Events that came from the stream instead of live."),
		repairErrors: counter("feed_repair_errors_total", "Reads from a stream that failed and were tried again."),
		dropped:      counter("nats_dropped_messages_total", "Messages that the NATS client dropped before a feed could take them."),
		writes:       counter("socket_writes_total", "Writes of events to sockets."),
		deliveries:   counter("deliveries_total", "Events written to sockets."),
		bytes:        counter("socket_written_bytes_total", "Bytes of events written to sockets."),
		lagged:       counter("slow_consumers_total", "Sockets that fell behind the feed or the budget."),
		pressed:      counter("socket_pauses_total", "Times that writing waited because stalled sockets held too much."),
		beacons:      counter("feed_beacons_total", "Times that ingest has told an application's last sequence."),
		looks:        counter("feed_looks_total", "Times that a stream's leader was asked whether anything is missing."),
		requests:     counter("stream_requests_total", "Requests to streams, of all kinds."),
		moves:        counter("nats_moves_total", "Times that a connection was moved to another NATS server, since no stream's leader answered over it."),
		replays:      counter("replays_total", "Sockets that began with events from the stream."),
		replayReads:  counter("replay_reads_total", "Reads from streams for sockets that resume."),
		replayed:     counter("replayed_events_total", "Events that those reads have brought; many sockets may share one."),
		gaps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "canopy_edge_gaps_total", Help: "Times that clients were told of events that may be missing, by reason.",
		}, []string{"reason"}),
		age: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "canopy_edge_event_age_seconds",
			Help:    "Age of the newest event, since it was appended to Kafka, when a part of its sockets had been written to.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}),
	}
	reg.MustRegister(m.age, m.gaps)
	for _, reason := range []string{event.GapRetention, event.GapLog, event.GapFuture, event.GapSkipped} {
		m.gaps.WithLabelValues(reason) // so that it is there before it counts
	}
	return m
}

// delivered counts one turn of the sweep. at is when the newest event was appended to
// Kafka, in ms since 1970, 0 if that is unknown.
func (m *metrics) delivered(writes, events, bytes int, at int64, now time.Time) {
	m.writes.Add(float64(writes))
	m.deliveries.Add(float64(events))
	m.bytes.Add(float64(bytes))
	if at > 0 {
		m.age.Observe(max(0, float64(now.UnixMilli()-at)/1000))
	}
}
