package publish

import "github.com/prometheus/client_golang/prometheus"

// metrics are what the publisher counts.
type metrics struct {
	published  prometheus.Counter
	duplicates prometheus.Counter
	refused    *prometheus.CounterVec
	restarts   *prometheus.CounterVec
	beacons    prometheus.Counter
	questions  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		published: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "canopy_ingest_records_published_total",
			Help: "Records that the streams acknowledged as stored, duplicates not counted.",
		}),
		duplicates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "canopy_ingest_duplicates_total",
			Help: "Records that the streams already held when they were published again.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "canopy_ingest_refused_total",
			Help: "Records that NATS can never take and that were skipped, by reason.",
		}, []string{"reason"}),
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "canopy_ingest_publish_restarts_total",
			Help: "Attempts to publish, a batch or a single record, that were given up and made again, by reason.",
		}, []string{"reason"}),
		beacons: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "canopy_ingest_beacons_total",
			Help: "Messages that told edges the last sequence of an application that had fallen quiet.",
		}),
		questions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "canopy_ingest_beacon_questions_total",
			Help: "Questions to a stream for the last sequence of an application, which acknowledgements had not told.",
		}),
	}
	for _, reason := range []string{reasonTooLarge, reasonHeaderTooLarge} {
		m.refused.WithLabelValues(reason)
	}
	for _, reason := range []string{reasonTimeout, reasonDisconnected, reasonNoResponders, reasonIncomplete, reasonError, reasonSend} {
		m.restarts.WithLabelValues(reason)
	}
	reg.MustRegister(m.published, m.duplicates, m.refused, m.restarts, m.beacons, m.questions)
	return m
}
