package local

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// listener is an address that a part will bind.
type listener struct {
	part, setting, addr string
}

// listeners are the addresses that the parts of c will bind.
func (c Config) listeners() []listener {
	var all []listener
	add := func(part, setting, addr string) {
		if c.runs(part) {
			all = append(all, listener{part, setting, addr})
		}
	}
	if c.HealthAddr != "" {
		all = append(all, listener{healthPart, "LOCAL__HEALTH_ADDR", c.HealthAddr})
	}
	add(NATS, "LOCAL__NATS_ADDR", c.NATSAddr)
	add(Kafka, "LOCAL__KAFKA_ADDR", c.KafkaAddr)
	add(Issuer, "LOCAL__ISSUER_ADDR", c.IssuerAddr)
	if c.runs(Edge) {
		add(Ingest, "LOCAL__INGEST_HEALTH_ADDR", c.IngestHealthAddr)
	} else {
		add(Ingest, "RUNTIME__HEALTH__BIND_ADDR", c.Settings.Runtime.Health.BindAddr)
	}
	add(Edge, "HTTP__BIND_ADDR", c.Settings.HTTP.BindAddr)
	add(Edge, "RUNTIME__HEALTH__BIND_ADDR", c.Settings.Runtime.Health.BindAddr)
	return all
}

// probe binds every address for a moment before anything starts, so that one message names
// all that are taken, and nothing has to be taken down again.
func probe(all []listener) error {
	var errs []error
	for _, l := range all {
		ln, err := net.Listen("tcp", l.addr)
		if err != nil {
			errs = append(errs, l.explain(err))
			continue
		}
		// Held until all are bound: two parts must not share one either.
		defer func() { _ = ln.Close() }()
	}
	return errors.Join(errs...)
}

// explain says which part wanted the address and what to do about it.
func (l listener) explain(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("start %s: %s is in use by another program (or by another part): stop it, or set %s to a free address", l.part, l.addr, l.setting)
	}
	return fmt.Errorf("start %s: %w: set %s to another address", l.part, err, l.setting)
}
