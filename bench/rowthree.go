//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"canopy/bench/drain"
	"canopy/bench/load"
	"canopy/bench/report"
	"canopy/bench/solo"
)

const (
	goalWay = 0.7 // events a second of the whole way by those of its slowest part alone

	// roomForRound lets the edge keep a whole round. An edge that is fed from memory cannot
	// read again from the stream what its sockets have not had yet.
	roomForRound = "EDGE__BUFFERS__FEED_BYTES=256MiB"
)

// fedEdge is an edge that is fed past the stream: its events were made before.
type fedEdge struct {
	*stage
	feeder *solo.Process
	crew   *drain.Crew
}

func (m *fedEdge) open(ctx context.Context) (err error) {
	if err := m.stage.open(ctx, roomForRound); err != nil {
		return err
	}
	if m.feeder, err = solo.StartPublisher(m.nats.URL(), load.Application, m.opts.size); err != nil {
		return err
	}
	m.crew, err = m.openSockets(m.edge.URL(), m.opts.way.sockets)
	return err
}

func (m *fedEdge) close() error {
	err := m.closeClients()
	if m.feeder != nil {
		err = errors.Join(err, m.feeder.Stop())
	}
	return errors.Join(err, m.stage.close())
}

// traveller is a contestant of row 3.
type traveller struct {
	name   string
	crew   *drain.Crew
	send   func(events int) error
	rounds []drain.Snapshot
}

func (t *traveller) rates() (values []float64) {
	for i := range t.rounds {
		s := &t.rounds[i]
		values = append(values, float64(t.events(i)-1)/s.Last.Sub(s.First).Seconds())
	}
	return values
}

func (t *traveller) events(round int) int {
	return int(t.rounds[round].Events) / t.rounds[round].Sockets
}

// rowThree is the whole way from Kafka to few sockets. ingested is the records a second
// that ingest has taken alone.
func (c *carrier) rowThree(ctx context.Context, ingested float64) (row report.Row, err error) {
	m := &fedEdge{stage: &stage{opts: c.opts}}
	defer func() { err = errors.Join(err, m.close()) }()
	if err := m.open(ctx); err != nil {
		return row, err
	}
	crew, err := c.openSocketsFrom(c.edge.URL(), c.opts.way.sockets, c.topics[0].Next())
	if err != nil {
		return row, err
	}
	both := [2]*traveller{
		{name: "whole way", crew: crew, send: func(events int) error {
			if err := c.topics[0].Publish(ctx, events, 0); err != nil {
				return err
			}
			return c.openIngest(ctx, load.Application)
		}},
		{name: "edge fed from memory", crew: m.crew, send: func(events int) error {
			_, err := m.feeder.Feed(events)
			return err
		}},
	}
	for round := -1; round < c.opts.rounds; round++ {
		for turn := range both {
			who := both[(round+1+turn)%len(both)]
			seen, err := who.travel(c.opts)
			if err := errors.Join(err, c.closeIngest()); err != nil {
				return row, fmt.Errorf("round %d, %s: %w", round+1, who.name, err)
			}
			if round < 0 {
				continue
			}
			who.rounds = append(who.rounds, seen)
			progress("row 3, round %d of %d: %s: %s events/s", round+1, c.opts.rounds, who.name, report.Count(uint64(who.rates()[round])))
		}
	}
	return rowThreeResults(c.opts, both, ingested), nil
}

// travel sends the events of one round, and gives what the sockets have seen.
func (t *traveller) travel(o options) (seen drain.Snapshot, err error) {
	if err := t.crew.Reset(); err != nil {
		return seen, err
	}
	if err := t.send(o.way.events); err != nil {
		return seen, err
	}
	if err := t.crew.Wait(o.way.events, burstPatience); err != nil {
		return seen, err
	}
	if seen, err = t.crew.Snapshot(); err != nil {
		return seen, err
	}
	return seen, verify(seen, o.way.sockets, o.size, o.way.events)
}

func rowThreeResults(o options, both [2]*traveller, ingested float64) report.Row {
	row := report.Row{
		Title: "3. Events per second the whole way from Kafka",
		What: fmt.Sprintf("*Whole way*: %s records wait in Kafka when an ingest starts; it takes them to NATS, and an edge to %d sockets. *Edge fed from memory*: another edge gets "+
			"as many events, made before, from a process that sends them as fast as NATS takes them, past JetStream and without ingest and Kafka. Both edges may keep a whole round (`%s`). "+
			"The time is from the first delivery of all to the last; clients, Kafka and NATS share the cores with all of it. "+
			"The goal stands against the slower of the edge fed from memory (in the same round) and ingest alone (%s records/s, row 8).",
			report.Count(uint64(o.way.events)), o.way.sockets, roomForRound, report.Count(uint64(ingested))),
	}
	whole, fed := both[0].rates(), both[1].rates()
	var ratios, shares []float64
	for i := range whole {
		ratios = append(ratios, whole[i]/min(fed[i], ingested))
		shares = append(shares, whole[i]*(1/fed[i]+1/ingested))
	}
	row.Results = []report.Result{
		{Name: "ratio: whole way to the slower part alone", Values: ratios, Digits: 2, Goal: &report.Goal{AtLeast: true, Value: goalWay}},
		{Name: "ratio: whole way to both parts by turns, which share the cores", Values: shares, Digits: 2},
		{Name: both[0].name, Values: whole, Unit: "events/s"},
		{Name: both[1].name, Values: fed, Unit: "events/s"},
	}
	row.Pictures = []report.Picture{{
		Title: row.Title, Axis: "events/s",
		Bars: append(row.Pick(both[0].name, both[1].name), report.Result{Name: "ingest alone (median)", Values: []float64{ingested}}),
	}}
	row.Head = []string{"round", "contestant", "events", "deliveries", "seconds", "events/s", "bytes on the wire", "client's reads"}
	for round := range o.rounds {
		for _, who := range both {
			seen := &who.rounds[round]
			row.Raw = append(row.Raw, []string{
				strconv.Itoa(round + 1), who.name, strconv.Itoa(who.events(round)), report.Count(seen.Events),
				fmt.Sprintf("%.3f", seen.Last.Sub(seen.First).Seconds()), report.Count(uint64(who.rates()[round])), report.Count(seen.Bytes), report.Count(seen.Reads),
			})
		}
	}
	return row
}
