package local

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestPartsStopInTheOppositeOrderEachWhileTheEarlierOnesRun(t *testing.T) {
	c := newCrew()
	ctx, cancel := context.WithCancel(t.Context())
	var stopped []string
	for _, name := range []string{"first", "second", "third"} {
		err := c.start(ctx, name, func(ctx context.Context, ready func()) error {
			ready()
			<-ctx.Done()
			stopped = append(stopped, name) // one after the other, or the race detector complains
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := errors.Join(c.wait(ctx), c.stop()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"third", "second", "first"}; !slices.Equal(stopped, want) {
		t.Errorf("stopped %v, want %v", stopped, want)
	}
}

func TestPartThatEndsByItselfIsAnError(t *testing.T) {
	broken := errors.New("broken")
	for _, want := range []error{broken, nil} {
		c := newCrew()
		end := make(chan struct{})
		err := c.start(t.Context(), "kafka", func(_ context.Context, ready func()) error {
			ready()
			<-end
			return want
		})
		if err != nil {
			t.Fatal(err)
		}
		close(end)
		if err := c.wait(t.Context()); err == nil || !strings.Contains(err.Error(), "kafka") || want != nil && !errors.Is(err, want) {
			t.Errorf("got %v, want it to name kafka and %v", err, want)
		}
		if err := c.stop(); err != nil {
			t.Errorf("the failure was reported twice: %v", err)
		}
	}
}

func TestStartThatIsInterruptedLeavesNothingRunning(t *testing.T) {
	c := newCrew()
	ctx, cancel := context.WithCancel(t.Context())
	ended := false
	err := c.start(ctx, "slow", func(ctx context.Context, _ func()) error {
		cancel()
		<-ctx.Done()
		ended = true
		return nil
	})
	if !errors.Is(err, context.Canceled) || !ended {
		t.Errorf("error %v, ended %v", err, ended)
	}
}
