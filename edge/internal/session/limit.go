package session

import (
	"github.com/prometheus/client_golang/prometheus"
)

// NewOverLimit makes and registers the counter of what was refused, closed or made to wait
// because of the setting EDGE__LIMITS__<limit>, whose name is given in lower case, or of a
// limit that is no setting.
func NewOverLimit(reg prometheus.Registerer, limit string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{
		Name:        "canopy_edge_over_limit_total",
		Help:        "Requests refused, and sockets closed or made to wait, because of a limit, by the name of its setting; failed_sign_ins, forbidden_applications and questions have none.",
		ConstLabels: prometheus.Labels{"limit": limit},
	})
	reg.MustRegister(c)
	return c
}
