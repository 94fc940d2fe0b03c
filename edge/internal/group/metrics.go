package group

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what groups do. Their names begin with canopy_edge_group.
type metrics struct {
	writes, deliveries, bytes                               prometheus.Counter
	acknowledged, refused, redelivered, repeated            prometheus.Counter
	slowed, silent, faults, foreign, unanswered, lookErrors prometheus.Counter
	created, remade, failovers, gaps, undeliverable, untold prometheus.Counter
	age                                                     prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, h *Hub) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "canopy_edge_group_" + name, Help: help})
		reg.MustRegister(c)
		return c
	}
	reg.MustRegister(newGauges(h))
	m := &metrics{
		writes:        counter("writes_total", "Writes of events to members."),
		deliveries:    counter("deliveries_total", "Events written to members, repeats included."),
		bytes:         counter("written_bytes_total", "Bytes of events and Pings written to members."),
		acknowledged:  counter("acknowledged_total", "Events acknowledged to JetStream, or passed over because of their channel."),
		refused:       counter("refused_total", "Events handed back to JetStream, because no member could take them."),
		redelivered:   counter("redelivered_total", "Events that JetStream has sent again."),
		repeated:      counter("repeated_total", "Events written to a second member, because the first one did not acknowledge."),
		slowed:        counter("slow_total", "Times that a member owed an acknowledgement for 250 ms and was passed over until it gave one."),
		silent:        counter("silent_total", "Members dropped because they acknowledged nothing."),
		faults:        counter("faulty_events_total", "Stored messages that are no events."),
		foreign:       counter("foreign_messages_total", "Messages on our subjects that no consumer had sent."),
		unanswered:    counter("unanswered_total", "Acknowledgements that could not be published."),
		lookErrors:    counter("look_errors_total", "Looks at a consumer that failed."),
		created:       counter("created_total", "Consumers made for groups."),
		remade:        counter("remade_total", "Consumers that were gone and were made again."),
		failovers:     counter("failovers_total", "Consumers of one copy that were made again on another node, because theirs did not answer."),
		gaps:          counter("gaps_total", "Times that events of a group were gone, or may have been."),
		undeliverable: counter("undeliverable_total", "Events set aside, because every member that was given one alone failed."),
		untold:        counter("untold_total", "Gap events that no member took, because every one that was given it failed."),
		age: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "canopy_edge_group_event_age_seconds",
			Help:    "Age of an event, since it was appended to Kafka, when it was written to a member.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}),
	}
	reg.MustRegister(m.age)
	return m
}

// delivered counts one write.
func (m *metrics) delivered(events []*delivery, bytes int, now time.Time) {
	if len(events) == 0 {
		return
	}
	m.writes.Inc()
	m.deliveries.Add(float64(len(events)))
	m.bytes.Add(float64(bytes))
	ms := now.UnixMilli()
	for _, d := range events {
		if d.appended > 0 {
			m.age.Observe(max(0, float64(ms-d.appended)/1000))
		}
	}
}

// gauges tell the state of all groups. They are one collector, so that a scrape looks at
// every group once.
type gauges struct {
	hub  *Hub
	list []gauge
}

type gauge struct {
	desc  *prometheus.Desc
	value func(total) float64
}

func newGauges(h *Hub) *gauges {
	c := &gauges{hub: h}
	add := func(name, help string, value func(total) float64) {
		c.list = append(c.list, gauge{prometheus.NewDesc("canopy_edge_"+name, help, nil, nil), value})
	}
	add("groups", "Groups that have members on this edge, or had until a moment ago.", func(t total) float64 { return float64(t.groups) })
	add("group_members", "Sockets that are members of groups.", func(t total) float64 { return float64(t.members) })
	add("group_members_slow", "Members that owe an acknowledgement and are passed over.", func(t total) float64 { return float64(t.slow) })
	add("group_in_flight", "Events that members have not acknowledged.", func(t total) float64 { return float64(t.inFlight) })
	add("group_waiting", "Events that wait for a member.", func(t total) float64 { return float64(t.waiting) })
	add("group_bytes", "Bytes of events that groups hold until they are acknowledged.", func(total) float64 { return float64(h.room.bytes.Load()) })
	add("group_oldest_unacknowledged_seconds", "Time since the oldest event came that is not acknowledged.", func(t total) float64 { return t.oldest.Seconds() })
	return c
}

// Describe is prometheus.Collector's.
func (c *gauges) Describe(descs chan<- *prometheus.Desc) {
	for _, g := range c.list {
		descs <- g.desc
	}
}

// Collect is prometheus.Collector's.
func (c *gauges) Collect(metrics chan<- prometheus.Metric) {
	t := c.hub.sum()
	for _, g := range c.list {
		metrics <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.value(t))
	}
}

// total is the state of all groups together.
type total struct {
	groups, members, slow, inFlight, waiting int
	oldest                                   time.Duration // since the oldest event came that is not acknowledged
}

// sum looks at every group.
func (h *Hub) sum() total {
	var t total
	now := h.now()
	for _, g := range h.all() {
		s := g.status(now)
		t.groups++
		t.members += s.Members
		t.slow += s.Slow
		t.inFlight += s.InFlight
		t.waiting += s.Waiting
		t.oldest = max(t.oldest, s.oldest)
	}
	return t
}
