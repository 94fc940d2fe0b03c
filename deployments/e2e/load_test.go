//go:build linux

package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"canopy/shared/topic"
)

const loadTick = 10 * time.Millisecond

// headers makes record headers out of names and values in turn.
func headers(pairs ...string) []kgo.RecordHeader {
	list := make([]kgo.RecordHeader, 0, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, kgo.RecordHeader{Key: pairs[i], Value: []byte(pairs[i+1])})
	}
	return list
}

// numbered is event n of a sequence, as the drain client counts them: a CloudEvent in
// binary mode, padded by pad bytes. An empty channel is none.
func (w *world) numbered(name, channel string, n uint64, pad int) *kgo.Record {
	value := fmt.Appendf(nil, `{"n":%d,"at":%d`, n, time.Now().UnixNano())
	if pad > 0 {
		value = append(value, `,"pad":"`+strings.Repeat("x", pad)+`"`...)
	}
	r := &kgo.Record{
		Topic: topic.Of(w.app(name)), Value: append(value, '}'),
		Headers: headers("ce_specversion", "1.0", "ce_id", strconv.FormatUint(n, 10), "ce_type", "io.drogue.event.v1",
			"ce_source", "drogue://device", "content-type", "application/json", "ce_application", w.app(name)),
	}
	if channel != "" {
		r.Headers = append(r.Headers, headers("ce_subject", channel)...)
	}
	return r
}

// produce writes the records and waits until Kafka has them.
func (w *world) produce(records ...*kgo.Record) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		w.t.Fatalf("produce: %v", err)
	}
}

// source is one sequence of numbered events: a partition of an application, and the
// channel that its events carry.
type source struct {
	application string
	partition   int32
	channel     string
}

// load produces events of several sources, the same number of each, until it is stopped.
type load struct {
	w       *world
	sources []source
	rate    int // events of each source a second
	pad     int

	count  atomic.Uint64 // of each source, so far
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// startLoad begins to produce. Fleets that must see everything are opened before.
func (w *world) startLoad(rate, pad int, sources ...source) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{w: w, sources: sources, rate: rate, pad: pad, cancel: cancel}
	l.done.Go(func() { l.run(ctx) })
	w.t.Cleanup(func() { l.stop() })
	return l
}

func (l *load) run(ctx context.Context) {
	tick := time.NewTicker(loadTick)
	defer tick.Stop()
	perTick := max(1, int(time.Duration(l.rate)*loadTick/time.Second))
	for ctx.Err() == nil {
		n := l.count.Load()
		records := make([]*kgo.Record, 0, perTick*len(l.sources))
		for i := range perTick {
			for _, s := range l.sources {
				r := l.w.numbered(s.application, s.channel, n+uint64(i)+1, l.pad)
				r.Partition = s.partition
				records = append(records, r)
			}
		}
		limited, cancel := context.WithTimeout(context.Background(), patience)
		err := l.w.client.ProduceSync(limited, records...).FirstErr()
		cancel()
		if err != nil {
			l.w.t.Errorf("produce: %v", err)
			return
		}
		l.count.Add(uint64(perTick))
		<-tick.C
	}
}

// stop ends the load and gives the number of events of each source.
func (l *load) stop() uint64 {
	l.cancel()
	l.done.Wait()
	return l.count.Load()
}
