package gateway

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"canopy/edge/internal/ws"
	"canopy/shared/config"
)

// newDeflater makes what compresses events, nil if that is off, and counts what it does.
func newDeflater(cfg config.Edge, reg prometheus.Registerer) *ws.Deflater {
	d := ws.NewDeflater(int(cfg.CompressFrom))
	count := func(name, help string, value func() uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "canopy_edge_compress" + name, Help: help,
		}, func() float64 { return float64(value()) }))
	}
	count("ed_events_total", "Events compressed, each once for all sockets of its application and once for a group.",
		func() uint64 { n, _, _ := d.Counts(); return n })
	count("_read_bytes_total", "Bytes of these events before.",
		func() uint64 { _, n, _ := d.Counts(); return n })
	count("_written_bytes_total", "Bytes of these events after.",
		func() uint64 { _, _, n := d.Counts(); return n })
	return d
}

// compression is what the edge accepts of the compression that a request offers.
func (a *admission) compression(r *http.Request) ws.Offer {
	if a.deflater == nil {
		return ws.Offer{}
	}
	return ws.DeflateOffer(r)
}
