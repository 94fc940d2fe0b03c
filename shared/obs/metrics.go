package obs

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"canopy/shared/config"
)

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
