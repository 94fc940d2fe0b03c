package solo

import (
	"errors"

	"canopy/bench/child"
)

// Process is a running solo process. Its methods may be called from any goroutine.
type Process struct{ *child.Process }

// Start starts one. The program must serve Command.
func Start() (*Process, error) {
	p, err := child.Start(Command)
	if err != nil {
		return nil, err
	}
	return &Process{p}, nil
}

// StartPublisher starts one that publishes events of application, of size bytes.
func StartPublisher(nats, application string, size int) (*Process, error) {
	p, err := Start()
	if err != nil {
		return nil, err
	}
	if err := p.Ask(question{Do: "connect", NATS: nats, Application: application, Size: size}, nil); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// Poll reads that many records of application from Kafka, the first at an offset, and
// discards them.
func (p *Process) Poll(brokers []string, application string, from int64, records int) (took Took, err error) {
	err = p.Ask(question{Do: "poll", Brokers: brokers, Application: application, From: from, Events: records}, &took)
	return took, err
}

// Publish publishes the next events to JetStream, in the way of ingest.
func (p *Process) Publish(events int) (took Took, err error) {
	err = p.Ask(question{Do: "publish", Events: events}, &took)
	return took, err
}

// Feed sends the next events to edges, as if the stream had stored them. The first one
// ever has sequence 1: the stream must be empty.
func (p *Process) Feed(events int) (took Took, err error) {
	err = p.Ask(question{Do: "feed", Events: events}, &took)
	return took, err
}
