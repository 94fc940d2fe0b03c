package consume

import (
	"github.com/prometheus/client_golang/prometheus"

	"canopy/shared/obs"
)

// metrics are what the consumer counts; gauges ask it when they are scraped.
type metrics struct {
	read         prometheus.Counter
	commitErrors prometheus.Counter
	lost         prometheus.Counter
	fetchErrors  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, c *Consumer) *metrics {
	obs.Gauge(reg, "canopy_ingest_window_records", "Records read from Kafka that NATS has not acknowledged.", func() float64 {
		n, _ := c.window.used()
		return float64(n)
	})
	obs.Gauge(reg, "canopy_ingest_window_bytes", "Bytes of the records read from Kafka that NATS has not acknowledged.", func() float64 {
		_, n := c.window.used()
		return float64(n)
	})
	obs.Gauge(reg, "canopy_ingest_partitions", "Partitions assigned to this ingest.", func() float64 {
		return float64(c.partitions.count())
	})
	obs.Gauge(reg, "canopy_ingest_lag_records", "Records in the assigned partitions that have not been read.", func() float64 {
		n, _ := c.partitions.lag()
		return float64(n)
	})
	obs.Gauge(reg, "canopy_ingest_lag_seconds", "Age of the oldest record known that NATS has not acknowledged, in seconds; 0 if there is none.", func() float64 {
		_, age := c.partitions.lag()
		return age.Seconds()
	})
	return &metrics{
		read: obs.Counter(reg, "canopy_ingest_records_read_total", "Records read from Kafka and handed on."),
		commitErrors: obs.Counter(reg, "canopy_ingest_commit_errors_total",
			"Commits of offsets that failed; what they held is committed with a later one."),
		lost: obs.Counter(reg, "canopy_ingest_records_lost_total",
			"Offsets that left Kafka, by its retention or a loss of its own, before they were read. Never good: alarm on it."),
		fetchErrors: obs.Counter(reg, "canopy_ingest_fetch_errors_total", "Errors of partitions while reading from Kafka."),
	}
}
