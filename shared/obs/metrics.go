package obs

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"canopy/shared/config"
)

// Counter makes a counter and registers it. name is the whole name.
func Counter(reg prometheus.Registerer, name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	reg.MustRegister(c)
	return c
}

// Counters makes counters that differ in one label and registers them. Those of values are
// there from the start, as 0.
func Counters(reg prometheus.Registerer, name, help, label string, values ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	for _, v := range values {
		c.WithLabelValues(v)
	}
	reg.MustRegister(c)
	return c
}

// Gauge registers a gauge that asks value whenever it is read.
func Gauge(reg prometheus.Registerer, name, help string, value func() float64) {
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
}

// NewRegistry makes a registry with the metrics of the Go runtime and of the process, and
// canopy_build_info. It is not the global one, so that one process can run both tiers.
func NewRegistry() *prometheus.Registry {
	reg := prometheus.NewRegistry()
	version, commit := config.Build()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "canopy_build_info",
		Help: "Always 1; the labels say what was built.",
		ConstLabels: prometheus.Labels{
			"version": version, "commit": commit, "goversion": runtime.Version(),
		},
	})
	build.Set(1)
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build,
	)
	return reg
}
