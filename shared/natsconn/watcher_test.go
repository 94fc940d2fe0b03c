package natsconn

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestARepeatedErrorIsOnlyCountedForTenSeconds(t *testing.T) {
	w := newWatcher(Handlers{}, zap.NewNop())
	start := time.Now()
	for _, c := range []struct {
		kind    string
		after   time.Duration
		repeats int
		logged  bool
	}{
		{"a", 0, 0, true},
		{"a", time.Second, 0, false},
		{"b", time.Second, 0, true},
		{"a", quiet - 1, 0, false},
		{"a", quiet, 2, true},
		{"a", quiet + 1, 0, false},
		{"b", 5 * quiet, 0, true},
		{"a", 5 * quiet, 1, true},
	} {
		if repeats, logged := w.due(c.kind, start.Add(c.after)); repeats != c.repeats || logged != c.logged {
			t.Errorf("%s after %v: %d repeats, logged %v; want %d, %v", c.kind, c.after, repeats, logged, c.repeats, c.logged)
		}
	}
}

func TestManyKindsOfErrorsTakeBoundedMemory(t *testing.T) {
	w := newWatcher(Handlers{}, zap.NewNop())
	start := time.Now()
	logged := 0
	for i := range 100 * maxKinds {
		if _, ok := w.due(strconv.Itoa(i), start); ok {
			logged++
		}
	}
	if len(w.seen) > maxKinds+1 || logged != maxKinds+1 {
		t.Errorf("%d kinds are kept and %d were logged, want at most %d", len(w.seen), logged, maxKinds+1)
	}
	if _, ok := w.due("later", start.Add(quiet)); !ok || len(w.seen) != 1 {
		t.Errorf("old kinds are not forgotten: %d are kept", len(w.seen))
	}
}

func TestSlowConsumersShareOneLine(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	told := 0
	h := Handlers{AsyncError: func(*nats.Conn, *nats.Subscription, error) { told++ }}
	w := newWatcher(h, zap.New(core))
	w.asyncError(nil, &nats.Subscription{Subject: "events.1.a"}, nats.ErrSlowConsumer)
	w.asyncError(nil, &nats.Subscription{Subject: "events.2.b"}, fmt.Errorf("wrapped: %w", nats.ErrSlowConsumer))
	w.asyncError(nil, nil, errors.New("another"))
	if told != 3 {
		t.Errorf("the handler was told %d errors of 3", told)
	}
	if lines := logs.All(); len(lines) != 2 || lines[0].ContextMap()["subject"] != "events.1.a" || lines[1].ContextMap()["error"] != "another" {
		t.Errorf("logged %v", lines)
	}
}

func TestRefusedSubjectIsReadFromTheServersText(t *testing.T) {
	for _, c := range []struct {
		err     error
		subject string
		ok      bool
	}{
		{fmt.Errorf("%w: %s", nats.ErrPermissionViolation, `Permissions Violation for Publish to "in.1.a"`), "in.1.a", true},
		{fmt.Errorf("%w: %s", nats.ErrPermissionViolation, `Permissions Violation for Subscription to "grp.>" using queue "q"`), "grp.>", true},
		{nats.ErrPermissionViolation, "", false},
		{errors.New(`Permissions Violation for Publish to "in.1.a"`), "", false},
	} {
		if subject, ok := refusedSubject(c.err); subject != c.subject || ok != c.ok {
			t.Errorf("%v names %q, %v; want %q, %v", c.err, subject, ok, c.subject, c.ok)
		}
	}
}
