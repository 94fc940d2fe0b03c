package consume

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the consumer counts; gauges ask it when they are scraped.
type metrics struct {
	read         prometheus.Counter
	commitErrors prometheus.Counter
	lost         prometheus.Counter
	fetchErrors  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, c *Consumer) *metrics {
	m := &metrics{
		read: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "canopy_ingest_records_read_total",
			Help: "Records read from Kafka and handed on.",
		}),
		commitErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "canopy_ingest_commit_errors_total",
			Help: "Commits of offsets that failed; what they held is committed with a later one.",
		}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "canopy_ingest_records_lost_total",
			Help: "Offsets that left Kafka, by its retention or a loss of its own, before they were read. Never good: alarm on it.",
		}),
		fetchErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "canopy_ingest_fetch_errors_total",
			Help: "Errors of partitions while reading from Kafka.",
		}),
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	reg.MustRegister(m.read, m.commitErrors, m.lost, m.fetchErrors,
		gauge("canopy_ingest_window_records", "Records read from Kafka that NATS has not acknowledged.", func() float64 {
			n, _ := c.window.used()
			return float64(n)
		}),
		gauge("canopy_ingest_window_bytes", "Bytes of the records read from Kafka that NATS has not acknowledged.", func() float64 {
			_, n := c.window.used()
			return float64(n)
		}),
		gauge("canopy_ingest_partitions", "Partitions assigned to this ingest.", func() float64 {
			return float64(c.partitions.count())
		}),
		gauge("canopy_ingest_lag_records", "Records in the assigned partitions that have not been read.", func() float64 {
			n, _ := c.partitions.lag()
			return float64(n)
		}),
		gauge("canopy_ingest_lag_seconds", "Age of the oldest record known that NATS has not acknowledged, in seconds; 0 if there is none.", func() float64 {
			_, age := c.partitions.lag()
			return age.Seconds()
		}),
	)
	return m
}
