//go:build linux

package main

import (
	"context"
	"errors"

	"canopy/bench/load"
	"canopy/bench/under"
	"canopy/shared/topic"
)

// pipeline is a stage with everything from Kafka on: an embedded broker, and an ingest
// that takes its topics to NATS.
type pipeline struct {
	*stage
	kafka  *under.Kafka
	ingest *under.Ingest
	topics []*load.Topic // one for each application
}

// open starts the broker with a topic for each of applications, NATS and the edge.
// Settings are the edge's.
func (p *pipeline) open(ctx context.Context, applications []string, settings ...string) (err error) {
	p.access = under.Public(applications...)
	if err := p.stage.open(ctx, settings...); err != nil {
		return err
	}
	if p.kafka, err = under.StartKafka(topicsOf(applications)...); err != nil {
		return err
	}
	for _, application := range applications {
		t, err := load.OpenTopic(p.kafka.Brokers(), application, p.opts.size)
		if err != nil {
			return err
		}
		p.topics = append(p.topics, t)
	}
	return nil
}

func topicsOf(applications []string) (names []string) {
	for _, application := range applications {
		names = append(names, topic.Of(application))
	}
	return names
}

// openIngest starts an ingest of these applications.
func (p *pipeline) openIngest(ctx context.Context, applications ...string) (err error) {
	p.ingest, err = under.StartIngest(ctx, under.IngestConfig{
		Program: p.opts.ingest, Kafka: p.kafka.Brokers(), NATS: p.nats.URL(), Topics: topicsOf(applications), Dir: p.dir,
		Env: []string{"RUNTIME__LOG__LEVEL=warn"},
	})
	return err
}

// closeIngest stops the ingest, if one runs. It commits what it has read.
func (p *pipeline) closeIngest() error {
	if p.ingest == nil {
		return nil
	}
	err := p.ingest.Stop()
	p.ingest = nil
	return err
}

// close ends everything, clients first.
func (p *pipeline) close() error {
	err := p.stage.closeClients()
	for _, t := range p.topics {
		t.Close()
	}
	err = errors.Join(err, p.closeIngest(), p.stage.close())
	if p.kafka != nil {
		err = errors.Join(err, p.kafka.Stop())
	}
	return err
}
