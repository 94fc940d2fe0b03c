package publish

import (
	"github.com/prometheus/client_golang/prometheus"

	"canopy/shared/obs"
)

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
	return &metrics{
		published: obs.Counter(reg, "canopy_ingest_records_published_total",
			"Records that the streams acknowledged as stored, duplicates not counted."),
		duplicates: obs.Counter(reg, "canopy_ingest_duplicates_total",
			"Records that the streams already held when they were published again."),
		refused: obs.Counters(reg, "canopy_ingest_refused_total",
			"Records that NATS can never take and that were skipped, by reason.",
			"reason", reasonTooLarge, reasonHeaderTooLarge),
		restarts: obs.Counters(reg, "canopy_ingest_publish_restarts_total",
			"Attempts to publish, a batch or a single record, that were given up and made again, by reason.",
			"reason", reasonTimeout, reasonDisconnected, reasonNoResponders, reasonIncomplete, reasonError, reasonSend),
		beacons: obs.Counter(reg, "canopy_ingest_beacons_total",
			"Messages that told edges the last sequence of an application that had fallen quiet."),
		questions: obs.Counter(reg, "canopy_ingest_beacon_questions_total",
			"Questions to a stream for last sequences that acknowledgements had not told, each about up to 64 applications."),
	}
}
