package publish

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"canopy/shared/obs"
	"canopy/shared/subject"
)

// metrics are what the publisher counts.
type metrics struct {
	published  prometheus.Counter
	duplicates prometheus.Counter
	refused    *prometheus.CounterVec
	restarts   *prometheus.CounterVec
	beacons    prometheus.Counter
	questions  prometheus.Counter

	evicted     prometheus.Counter
	counts      prometheus.Counter
	counted     prometheus.Counter
	auditErrors prometheus.Counter
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
		evicted: obs.Counter(reg, "canopy_ingest_evicted_events_total",
			"Events that were taken out of the streams because their application held its whole share (INGEST__RETENTION__SHARE)."),
		counts: obs.Counter(reg, "canopy_ingest_share_counts_total",
			"Times that an application's events were read from its stream, without their bodies, to know how many bytes they hold."),
		counted: obs.Counter(reg, "canopy_ingest_share_counted_events_total",
			"Events that were read from the streams for that."),
		auditErrors: obs.Counter(reg, "canopy_ingest_share_errors_total",
			"Attempts to see to an application's share that failed. If they go on, it may evict others' events: alarm on it."),
	}
}

// nearMost bounds the applications of which canopy_ingest_application_share tells.
const nearMost = 20

var shareDesc = prometheus.NewDesc("canopy_ingest_application_share",
	"How much of its share of its stream an application holds, 1 being all of it, as far as this ingest knows: "+
		"of those that hold more than half, the 20 that hold most.", []string{"application"}, nil)

// nearShare tells which applications are near their share.
type nearShare struct {
	p   *Publisher
	age time.Duration // events are kept; 0: for ever
}

func (n nearShare) Describe(to chan<- *prometheus.Desc) { to <- shareDesc }

func (n nearShare) Collect(to chan<- prometheus.Metric) {
	type holding struct {
		application string
		share       float64
	}
	var near []holding
	now := time.Now()
	for _, l := range n.p.lanes {
		l.mu.Lock()
		for _, a := range l.ledger.accounts {
			if n.age > 0 && now.Sub(a.seen) > n.age {
				continue // of what we know of it nothing is left
			}
			if held := max(a.bytes(), a.rest); 2*held > l.ledger.share {
				near = append(near, holding{a.application, float64(held) / float64(l.ledger.share)})
			}
		}
		l.mu.Unlock()
	}
	slices.SortFunc(near, func(a, b holding) int { return cmp.Compare(b.share, a.share) })
	for _, h := range near[:min(len(near), nearMost)] {
		to <- prometheus.MustNewConstMetric(shareDesc, prometheus.GaugeValue, h.share, subject.Encode(h.application))
	}
}
