//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"canopy/bench/drain"
	"canopy/bench/usage"
)

// drain lets who take the events from first to last, and checks that each came to one
// member.
func (d *duel) drain(ctx context.Context, who drainer, first, last uint64) (got drained, err error) {
	cpu, err := usage.CPU(who.pid)
	if err != nil {
		return got, err
	}
	natsCPU, err := usage.CPU(d.nats.PID())
	if err != nil {
		return got, err
	}
	start := time.Now()
	if err := who.open(); err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, who.close()) }()
	acknowledged, err := d.acknowledged(ctx, who.consumer)
	seen, seenErr := who.seen()
	if err = errors.Join(err, seenErr); err != nil {
		return got, fmt.Errorf("%d events came: %w", seen.Events, err)
	}
	if err := exactlyOnce(seen, first, last); err != nil {
		return got, err
	}
	got = drained{seen: seen, took: acknowledged.Sub(seen.First), whole: acknowledged.Sub(start)}
	for _, p := range []struct {
		pid    int
		before time.Duration
		used   *time.Duration
	}{{who.pid, cpu, &got.cpu}, {d.nats.PID(), natsCPU, &got.natsCPU}} {
		after, err := usage.CPU(p.pid)
		if err != nil {
			return got, err
		}
		*p.used = after - p.before
	}
	for _, pid := range who.clients() {
		used, err := usage.CPU(pid)
		if err != nil {
			return got, err
		}
		got.clients += used
	}
	return got, nil
}

// exactlyOnce is an error unless the events from first to last have come once, and
// nothing else.
func exactlyOnce(seen drain.Snapshot, first, last uint64) error {
	if err := seen.Fault(); err != nil {
		return err
	}
	events := last - first + 1
	if came := seen.Numbers.Len(first, last); came != events || seen.Events != events {
		return fmt.Errorf("%d of %d events came, in %d messages", came, events, seen.Events)
	}
	if seen.Others > 0 || seen.Open != seen.Sockets || seen.LostPongs > 0 {
		return fmt.Errorf("%d unexpected messages, %d members open of %d, %d Pongs lost", seen.Others, seen.Open, seen.Sockets, seen.LostPongs)
	}
	return nil
}

// acknowledged waits until nothing is left for consumer, and gives the time.
func (d *duel) acknowledged(ctx context.Context, consumer string) (time.Time, error) {
	return d.await(ctx, consumer, func(info *jetstream.ConsumerInfo) bool {
		return info.NumPending == 0 && info.NumAckPending == 0
	})
}

// abandoned waits until nobody subscribes to consumer.
func (d *duel) abandoned(ctx context.Context, consumer string) error {
	_, err := d.await(ctx, consumer, func(info *jetstream.ConsumerInfo) bool { return !info.PushBound })
	return err
}

func (d *duel) await(ctx context.Context, consumer string, until func(*jetstream.ConsumerInfo) bool) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, groupPatience)
	defer cancel()
	c, err := d.js.PushConsumer(ctx, d.names, consumer)
	for err == nil {
		var info *jetstream.ConsumerInfo
		if info, err = c.Info(ctx); err != nil {
			break
		}
		if until(info) {
			return time.Now(), nil
		}
		if err = pause(ctx, pollAcknowledged); err != nil {
			err = fmt.Errorf("%w: %d wait, %d are not acknowledged", err, info.NumPending, info.NumAckPending)
		}
	}
	return time.Time{}, fmt.Errorf("watch consumer %s: %w", consumer, err)
}

func (d *duel) close() error {
	var err error
	if d.peer != nil {
		err = d.peer.Stop()
	}
	return errors.Join(err, d.stage.close())
}
