//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"canopy/bench/drain"
	"canopy/bench/load"
	"canopy/bench/report"
	"canopy/bench/solo"
	"canopy/bench/usage"
	"canopy/shared/subject"
)

const (
	goalIngest = 0.8 // ingest's records a second by those of its slower half alone

	published    = load.Application + "-alone" // what is published without Kafka
	pollStored   = 5 * time.Millisecond
	carryTimeout = 2 * time.Minute
)

// wayOptions are the flags of rows 3 and 8.
type wayOptions struct {
	records int // per round of row 8
	events  int // per round of row 3
	sockets int // of row 3
}

func (o wayOptions) check(clients int) error {
	var errs []error
	if o.records < 2 || o.events < 2 {
		errs = append(errs, errors.New("-ingest-records, -way-events: expected at least 2"))
	}
	if o.sockets < clients {
		errs = append(errs, errors.New("-way-sockets: expected one per client process at least"))
	}
	return errors.Join(errs...)
}

// carrier is a pipeline whose ingest is measured, with both halves of its work beside it.
type carrier struct {
	*pipeline
	stream    jetstream.Stream
	poller    *solo.Process
	publisher *solo.Process
}

// carried is what one round of ingest, or of a half of its work, has shown.
type carried struct {
	records int
	took    time.Duration // from the first record to the last one
	cpu     time.Duration // of its process
	nats    time.Duration // CPU of NATS
	kafka   time.Duration // CPU of the broker
}

func (c carried) rate() float64 { return float64(c.records) / c.took.Seconds() }
func (c carried) cpuPerRecord() float64 {
	return float64(c.cpu.Nanoseconds()) / 1000 / float64(c.records)
}

// carriage is one contestant of row 8.
type carriage struct {
	name   string
	run    func(ctx context.Context, records int) (carried, error)
	rounds []carried
}

func (c *carriage) rates() (values []float64) {
	for _, r := range c.rounds {
		values = append(values, r.rate())
	}
	return values
}

// rowsThreeAndEight are ingest alone, and the whole way from Kafka to the sockets, whose
// goal is measured by the former.
func rowsThreeAndEight(ctx context.Context, o options) (rows []report.Row, err error) {
	c := &carrier{pipeline: &pipeline{stage: &stage{opts: o}}}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	all := []*carriage{
		{name: "Canopy's ingest", run: c.ingestAll}, {name: "polling alone", run: c.pollAll}, {name: "publishing alone", run: c.publishAll},
	}
	for round := -1; round < o.rounds; round++ { // what is made once is made in the round before
		for turn := range all {
			who := all[(round+1+turn)%len(all)]
			got, err := who.run(ctx, o.way.records)
			if err != nil {
				return nil, fmt.Errorf("row 8, round %d, %s: %w", round+1, who.name, err)
			}
			if round < 0 {
				continue
			}
			who.rounds = append(who.rounds, got)
			progress("row 8, round %d of %d: %s: %s records/s, %.1f µs of CPU per record", round+1, o.rounds, who.name,
				report.Count(uint64(got.rate())), got.cpuPerRecord())
		}
	}
	three, err := c.rowThree(ctx, report.Median(all[0].rates()))
	if err != nil {
		return nil, fmt.Errorf("row 3: %w", err)
	}
	return []report.Row{three, rowEightResults(o, all)}, nil
}

func (c *carrier) open(ctx context.Context) (err error) {
	if err := c.pipeline.open(ctx, []string{load.Application, published}, roomForRound); err != nil {
		return err
	}
	js, err := jetstream.New(c.conn)
	if err != nil {
		return fmt.Errorf("use JetStream: %w", err)
	}
	if c.stream, err = js.Stream(ctx, subject.Stream(0)); err != nil {
		return fmt.Errorf("find stream: %w", err)
	}
	if c.poller, err = solo.Start(); err != nil {
		return err
	}
	c.publisher, err = solo.StartPublisher(c.nats.URL(), published, c.opts.size)
	return err
}

// ingestAll lets an ingest take what waits in Kafka when it starts.
func (c *carrier) ingestAll(ctx context.Context, records int) (got carried, err error) {
	first := c.topics[0].Next()
	if err := c.topics[0].Publish(ctx, records, 0); err != nil {
		return got, err
	}
	got, err = c.stored(ctx, records, func() (pid int, before time.Duration, err error) {
		if err := c.openIngest(ctx, load.Application); err != nil {
			return 0, 0, err
		}
		return c.ingest.PID(), 0, nil
	})
	if err := errors.Join(err, c.closeIngest()); err != nil {
		return got, err
	}
	return got, c.inOrder(ctx, first, records)
}

// pollAll reads the newest records of the topic, which an ingest has had before, and
// discards them.
func (c *carrier) pollAll(_ context.Context, records int) (got carried, err error) {
	first := int64(c.topics[0].Next()) - 1 - int64(records)
	before, err := c.cpu(c.poller.PID())
	if err != nil {
		return got, err
	}
	took, err := c.poller.Poll(c.kafka.Brokers(), load.Application, first, records)
	if err != nil {
		return got, err
	}
	after, err := c.cpu(c.poller.PID())
	return carried{records, took.Duration(), after[0] - before[0], after[1] - before[1], after[2] - before[2]}, err
}

// publishAll publishes as many events to the same stream, without Kafka.
func (c *carrier) publishAll(ctx context.Context, records int) (got carried, err error) {
	return c.stored(ctx, records, func() (pid int, before time.Duration, err error) {
		if before, err = usage.CPU(c.publisher.PID()); err != nil {
			return 0, 0, err
		}
		_, err = c.publisher.Publish(records)
		return c.publisher.PID(), before, err
	})
}

// cpu is the processor time of pid, NATS and the broker.
func (c *carrier) cpu(pid int) (used [3]time.Duration, err error) {
	for i, pid := range []int{pid, c.nats.PID(), c.kafka.PID()} {
		if used[i], err = usage.CPU(pid); err != nil {
			return used, err
		}
	}
	return used, nil
}

// stored starts something, waits until the stream has records more, and gives the time
// between the first and the last by the stream's own clock. start tells which process does
// it, and the processor time that it had used before.
func (c *carrier) stored(ctx context.Context, records int, start func() (pid int, before time.Duration, err error)) (got carried, err error) {
	ctx, cancel := context.WithTimeout(ctx, carryTimeout)
	defer cancel()
	info, err := c.stream.Info(ctx)
	if err != nil {
		return got, fmt.Errorf("look at stream: %w", err)
	}
	before, err := c.cpu(c.nats.PID())
	if err != nil {
		return got, err
	}
	last := info.State.LastSeq
	pid, used, err := start()
	if err != nil {
		return got, err
	}
	until := last + uint64(records)
	for info.State.LastSeq < until {
		if err := pause(ctx, pollStored); err != nil {
			return got, fmt.Errorf("%d of %d records are stored: %w", info.State.LastSeq-last, records, err)
		}
		if info, err = c.stream.Info(ctx); err != nil {
			return got, fmt.Errorf("look at stream: %w", err)
		}
	}
	if info.State.LastSeq > until {
		return got, fmt.Errorf("%d records are stored instead of %d", info.State.LastSeq-last, records)
	}
	after, err := c.cpu(pid)
	if err != nil {
		return got, err
	}
	took, err := c.between(ctx, last+1, until)
	return carried{records, took, after[0] - used, after[1] - before[1], after[2] - before[2]}, err
}

// between is the time from one message of the stream to another one.
func (c *carrier) between(ctx context.Context, from, to uint64) (time.Duration, error) {
	var at [2]time.Time
	for i, sequence := range []uint64{from, to} {
		m, err := c.stream.GetMsg(ctx, sequence)
		if err != nil {
			return 0, fmt.Errorf("read stream: %w", err)
		}
		at[i] = m.Time
	}
	return at[1].Sub(at[0]), nil
}

// inOrder is an error unless the newest records of the stream are the events from first
// on, each once.
func (c *carrier) inOrder(ctx context.Context, first uint64, records int) error {
	info, err := c.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("look at stream: %w", err)
	}
	consumer, err := c.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: info.State.LastSeq - uint64(records) + 1,
	})
	if err != nil {
		return fmt.Errorf("read stream: %w", err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("read stream: %w", err)
	}
	defer messages.Stop()
	var counter drain.Counter
	for want := first; want < first+uint64(records); want++ {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("read stream: %w", err)
		}
		if n, _ := counter.Read(m.Data()); n != want {
			return fmt.Errorf("the stream has event %d where %d belongs", n, want)
		}
	}
	return nil
}

func (c *carrier) close() error {
	err := c.stage.closeClients()
	for _, p := range []*solo.Process{c.poller, c.publisher} {
		if p != nil {
			err = errors.Join(err, p.Stop())
		}
	}
	return errors.Join(err, c.pipeline.close())
}

func rowEightResults(o options, all []*carriage) report.Row {
	row := report.Row{
		Title: "8. Records per second through ingest",
		What: fmt.Sprintf("*Canopy's ingest*: %s records, which become events of %d bytes, wait in one partition of an embedded Kafka when an ingest starts; "+
			"the time is from the first to the last of them in the stream, by the stream's own clock. *Polling alone*: franz-go reads as many from the same partition, with the same sizes of fetches, and discards them. "+
			"*Publishing alone*: as many events, made before, are published to the same stream in the same way (fast batches with as much under way, duplicates recognised). "+
			"The goal stands against the slower of the two, although ingest has the work of both, and all share the cores with Kafka and NATS. "+
			"Ingest's processor time has its start in it.", report.Count(uint64(o.way.records)), o.size),
		Shows: []string{"The stream was read back after each round of ingest: every record was there once, and in Kafka's order."},
	}
	slower := all[1]
	if report.Median(all[2].rates()) < report.Median(all[1].rates()) {
		slower = all[2]
	}
	ratios := func(by *carriage) []float64 {
		values := all[0].rates()
		for i, rate := range by.rates() {
			values[i] /= rate
		}
		return values
	}
	for _, by := range all[1:] {
		r := report.Result{Name: "ratio: ingest to " + by.name, Values: ratios(by), Digits: 2}
		if by == slower {
			r.Goal = &report.Goal{AtLeast: true, Value: goalIngest}
		}
		row.Results = append(row.Results, r)
	}
	for _, who := range all {
		var cpu []float64
		for _, r := range who.rounds {
			cpu = append(cpu, r.cpuPerRecord())
		}
		row.Results = append(row.Results,
			report.Result{Name: who.name, Values: who.rates(), Unit: "records/s"},
			report.Result{Name: who.name + ", CPU of its process per record", Values: cpu, Unit: "µs", Digits: 1})
	}
	row.Pictures = []report.Picture{{Title: row.Title, Axis: "records/s", Log: true, Bars: row.Pick(all[0].name, all[1].name, all[2].name)}}
	row.Head = []string{"round", "contestant", "records", "seconds", "records/s", "CPU seconds", "CPU seconds of NATS", "CPU seconds of Kafka"}
	for round := range o.rounds {
		for _, who := range all {
			r := who.rounds[round]
			row.Raw = append(row.Raw, []string{
				strconv.Itoa(round + 1), who.name, report.Count(uint64(r.records)), fmt.Sprintf("%.3f", r.took.Seconds()), report.Count(uint64(r.rate())),
				fmt.Sprintf("%.3f", r.cpu.Seconds()), fmt.Sprintf("%.3f", r.nats.Seconds()), fmt.Sprintf("%.3f", r.kafka.Seconds()),
			})
		}
	}
	return row
}
