package child

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

type sum struct{ A, B int }

// TestMain lets the test's program be its own child.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "adder":
		err := Serve(os.Stdin, os.Stdout, func(q sum) (any, error) {
			if q.A < 0 {
				return nil, errors.New("A is negative")
			}
			return q.A + q.B, nil
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case len(os.Args) > 1 && os.Args[1] == "quitter":
		os.Exit(3)
	}
	os.Exit(m.Run())
}

func TestAChildAnswersRefusesAndEnds(t *testing.T) {
	p, err := Start("adder")
	if err != nil {
		t.Fatal(err)
	}
	var got int
	if err := p.Ask(sum{2, 3}, &got); err != nil || got != 5 {
		t.Errorf("2+3 is %d: %v", got, err)
	}
	if err := p.Ask(sum{-1, 3}, &got); err == nil || !strings.Contains(err.Error(), "A is negative") {
		t.Errorf("error %v", err)
	}
	if err := p.Ask(sum{4, 4}, &got); err != nil || got != 8 {
		t.Errorf("after a refusal 4+4 is %d: %v", got, err)
	}
	if p.PID() == os.Getpid() {
		t.Error("the child is no process of its own")
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

func TestAChildThatDiesIsAnError(t *testing.T) {
	p, err := Start("quitter")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Ask(sum{}, nil); err == nil {
		t.Error("a dead child answered")
	}
	if err := p.Stop(); err == nil {
		t.Error("its status is lost")
	}
}
