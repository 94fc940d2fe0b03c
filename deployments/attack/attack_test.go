//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test's program be the attack's processes.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if serve, ok := children[os.Args[1]]; ok {
			exit(serve(os.Stdin, os.Stdout))
		}
	}
	os.Exit(m.Run())
}

// late is how long an event may take while everything happens at once on a machine that runs
// other tests, too. An edge whose writers are parked takes many times as long.
const late = 2 * time.Second

func TestHonestClientsNoticeNoAttack(t *testing.T) {
	edge := filepath.Join(t.TempDir(), "canopy-edge")
	if out, err := exec.Command("go", "build", "-o", edge, "../../edge").CombinedOutput(); err != nil {
		t.Fatalf("build edge: %v\n%s", err, out)
	}
	o, err := parse([]string{
		"-edge", edge, "-honest", "200", "-hostile", strconv.Itoa(12 * len(kinds)), "-quiet", "3s", "-for", "12s",
		"-socket-bytes", "1MiB", "-history", "20000", "-floor", late.String(),
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := run(t.Context(), o, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var shown strings.Builder
	r.write(&shown)
	t.Log("\n" + shown.String())
	if err := r.fault(o); err != nil {
		t.Error(err)
	}
	for kind, want := range map[string]string{"tokens": "403", "requests": "431", "groups": "429"} {
		if r.outcomes[kind][want] == 0 {
			t.Errorf("of attack %s nothing was refused with %s: %v", kind, want, r.outcomes[kind])
		}
	}
	if n := r.outcomes["tokens"]["let in"]; n > 0 {
		t.Errorf("%d wrong tokens were let in", n)
	}
}

func TestAnAttackNeedsAKindThatThereIs(t *testing.T) {
	if _, err := parse([]string{"-attacks", "tokens,manners"}); err == nil || !strings.Contains(fmt.Sprint(err), "manners") {
		t.Errorf("got %v, want an error that names it", err)
	}
}

func TestAnAttackOfWhichNoConnectionCameAnywhereDidNotTakePlace(t *testing.T) {
	for took, outcomes := range map[bool]map[string]int{
		false: {cutShort: 3, failed: 10, timedOut: 1, "429": 0},
		true:  {cutShort: 3, failed: 10, opened: 1},
	} {
		r := report{outcomes: map[string]map[string]int{"pings": outcomes}}
		if err := r.fault(options{}); (err == nil) != took {
			t.Errorf("%v: %v", outcomes, err)
		}
	}
}

func TestAnEdgeThatIsSilentForTheWholeAttackFails(t *testing.T) {
	const usual, silence = 20 * time.Millisecond, 15 * time.Second
	sides := map[string]string{"plain": ""}
	r := report{quiet: phase{sight: newSight(sides)}, attack: phase{sight: newSight(sides), edges: map[string]cost{"plain": {}}}}
	r.quiet.latency["plain"].Record(usual)
	later := newSight(sides)
	later.latency["plain"].Record(silence)
	r.attack.add(later)
	if err := r.fault(options{factor: 2}); err == nil || !strings.Contains(err.Error(), "p99 was 15s") {
		t.Errorf("got %v, want that events were late", err)
	}
}
