package publish

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"

	"canopy/shared/event"
	"canopy/shared/natstest"
	"canopy/shared/subject"
)

// messageOf is a message of an application in shard 0.
func (s *source) messageOf(application string, i int) *Message {
	m := s.message(0, i, 10)
	m.Subject, m.Application = subject.In(0, application), application
	return m
}

// nextBeacon is the next one that sub gets; events in between are passed over.
func nextBeacon(t *testing.T, sub *nats.Subscription) (string, event.Cursor) {
	t.Helper()
	for {
		m, err := sub.NextMsg(20 * time.Second)
		if err != nil {
			t.Fatalf("wait for a beacon: %v", err)
		}
		text := m.Header.Get(event.HeaderBeacon)
		if text == "" {
			continue
		}
		c, err := event.ParseCursor(text)
		if err != nil || len(m.Data) != 0 {
			t.Fatalf("beacon %q with %d bytes: %v", text, len(m.Data), err)
		}
		return m.Subject, c
	}
}

// logOf is the log that shard 0's stream is.
func logOf(t *testing.T, s *site) event.Log {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stream, err := s.js.Stream(ctx, subject.Stream(0))
	if err != nil {
		t.Fatal(err)
	}
	return event.LogOf(stream.CachedInfo().Created)
}

func TestEdgesAreToldTheLastSequenceOfEveryApplicationThatFallsQuiet(t *testing.T) {
	srv := natstest.Start(t)
	s := newSite(t, srv.URL(), 1, zap.NewNop())
	sub, err := s.nc.SubscribeSync("events.>")
	if err != nil {
		t.Fatal(err)
	}
	const applications, each = 50, 20
	src := newSource("a", 300)
	for i := range applications * each {
		s.Publish(src.messageOf(fmt.Sprint("app.", i%applications), i))
		if i%100 == 99 {
			s.Flush()
		}
	}
	log := logOf(t, s)
	want := map[string]event.Cursor{}
	for i := range applications {
		want[subject.Events(0, fmt.Sprint("app.", i))] = event.Cursor{Log: log, Sequence: uint64(applications*(each-1) + i + 1)}
	}
	for len(want) > 0 {
		at, cursor := nextBeacon(t, sub)
		// It may have been quiet for long enough in between, too.
		if w, waits := want[at]; waits && (cursor.Log != w.Log || cursor.Sequence > w.Sequence || cursor.Sequence%applications != w.Sequence%applications) {
			t.Fatalf("%s: %v, want %v", at, cursor, w)
		} else if waits && cursor == w {
			delete(want, at)
		}
	}
}

func TestStreamIsAskedForSequencesThatAcknowledgementsDoNotTell(t *testing.T) {
	srv := natstest.Start(t)
	one := newSite(t, srv.URL(), 1, zap.NewNop())
	other := newSite(t, srv.URL(), 1, zap.NewNop())
	sub, err := one.nc.SubscribeSync(subject.Events(0, "quiet"))
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	done := make(chan struct{})
	a, b := newSource("a", 200), newSource("b", 200)
	go func() {
		defer close(done)
		for i := 0; !stop.Load(); i++ {
			other.Publish(b.messageOf("busy", i))
			other.Flush()
		}
	}()
	asked := func() float64 { return counterValue(one.metrics.questions) }
	// An event in the middle of a batch, into which the other ingest publishes, too.
	for i := 0; asked() == 0; {
		for _, application := range []string{"first", "quiet", "last"} {
			for range 30 {
				one.Publish(a.messageOf(application, i))
				i++
			}
		}
		one.Flush()
		eventually(t, 10*time.Second, "settled", func() bool { return a.settled() == i })
		want := lastSequence(t, one, "quiet")
		for {
			_, cursor := nextBeacon(t, sub)
			if cursor.Sequence == want && cursor.Log == logOf(t, one) {
				break
			}
			if cursor.Sequence > want {
				t.Fatalf("told %v, but the last is %d", cursor, want)
			}
		}
	}
	stop.Store(true)
	<-done
}

// lastSequence is what the stream says itself.
func lastSequence(t *testing.T, s *site, application string) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	stream, err := s.js.Stream(ctx, subject.Stream(0))
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.GetLastMsgForSubject(ctx, subject.In(0, application))
	if err != nil {
		t.Fatal(err)
	}
	return m.Sequence
}

func TestStreamThatIsDeletedIsMadeAgainAndNothingThatWasNotStoredIsLost(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) string{
		"one server": func(t *testing.T) string { return natstest.Start(t).URL() },
		"cluster":    func(t *testing.T) string { return natstest.StartCluster(t).Nodes[0].URL() },
	} {
		t.Run(name, func(t *testing.T) {
			var running atomic.Pointer[Streams]
			checked := make(chan error, 10)
			s := newSite(t, start(t), 1, zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel), zaptest.WrapOptions(
				zap.Hooks(func(e zapcore.Entry) error {
					// The stream is there again, and nobody knows it yet.
					if strings.HasPrefix(e.Message, "a stream was gone") {
						checked <- running.Load().Check()
					}
					return nil
				}))))
			running.Store(s.streams)
			sub, err := s.nc.SubscribeSync(subject.Events(0, "app"))
			if err != nil {
				t.Fatal(err)
			}
			src := newSource("a", 1000)
			for i := range 100 {
				s.Publish(src.messageOf("app", i))
			}
			s.Flush()
			eventually(t, 10*time.Second, "stored", func() bool { return src.settled() == 100 })
			old := logOf(t, s)
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if err := s.js.DeleteStream(ctx, subject.Stream(0)); err != nil {
				t.Fatal(err)
			}
			for i := range 300 {
				s.Publish(src.messageOf("app", 100+i))
			}
			s.Flush()
			select {
			case err := <-checked:
				if err == nil {
					t.Error("ingest was ready while the stream was gone")
				}
			case <-time.After(60 * time.Second):
				t.Fatal("it is not noticed")
			}
			eventually(t, 30*time.Second, "the rest is stored", func() bool { return src.settled() == 400 })
			eventually(t, 30*time.Second, "all is well again", func() bool { return s.streams.Check() == nil })
			log := logOf(t, s)
			if log == old {
				t.Fatal("the stream is the old one: the fault did not happen")
			}
			stream, err := s.js.Stream(ctx, subject.Stream(0))
			if err != nil {
				t.Fatal(err)
			}
			for i := range 300 {
				m, err := stream.GetMsg(ctx, uint64(i+1))
				if err != nil {
					t.Fatal(err)
				}
				if want := fmt.Sprint("a/0/", 100+i); m.Header.Get(nats.MsgIdHdr) != want {
					t.Fatalf("place %d holds %s, want %s", i+1, m.Header.Get(nats.MsgIdHdr), want)
				}
			}
			for cursor := (event.Cursor{Log: old}); cursor.Log == old; {
				if _, cursor = nextBeacon(t, sub); cursor.Log != old && cursor != (event.Cursor{Log: log, Sequence: 300}) {
					t.Errorf("told %v of log %x", cursor, log)
				}
			}
		})
	}
}

func TestStreamThatSomebodyElseMadeAgainIsAnotherLog(t *testing.T) {
	srv := natstest.Start(t)
	s := newSite(t, srv.URL(), 1, zap.NewNop())
	sub, err := s.nc.SubscribeSync(subject.Events(0, "app"))
	if err != nil {
		t.Fatal(err)
	}
	src := newSource("a", 1000)
	for i := range 10 {
		s.Publish(src.messageOf("app", i))
	}
	s.Flush()
	if _, cursor := nextBeacon(t, sub); cursor.Sequence != 10 {
		t.Fatalf("told %v", cursor)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	stream, err := s.js.Stream(ctx, subject.Stream(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.js.DeleteStream(ctx, subject.Stream(0)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.js.CreateStream(ctx, stream.CachedInfo().Config); err != nil {
		t.Fatal(err)
	}
	old, log := event.LogOf(stream.CachedInfo().Created), logOf(t, s)
	s.Publish(src.messageOf("app", 10))
	s.Flush()
	for cursor := (event.Cursor{Log: old}); cursor.Log == old; {
		// Those still due of the old stream may come, but nothing of the new one as of the old.
		if _, cursor = nextBeacon(t, sub); cursor != (event.Cursor{Log: log, Sequence: 1}) && cursor != (event.Cursor{Log: old, Sequence: 10}) {
			t.Fatalf("told %v; the new log is %x", cursor, log)
		}
	}
}
