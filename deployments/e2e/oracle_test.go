//go:build linux

package e2e

import (
	"fmt"
	"iter"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"canopy/deployments/e2e/oracle"
)

// scopes say to how many processes a fault is done.
var scopes = []string{"one", "minority", "majority", "all"}

// scopesOf are those of each part that are not the same: there are two ingests and two edges.
var scopesOf = map[string][]string{
	atNodes: {"one", "majority", "all"}, atIngests: {"one", "all"}, atEdges: {"one", "all"}, atKafka: {"all"},
}

// count is how many of n a scope is; 0 if there is no such number.
func count(scope string, n int) int {
	switch scope {
	case "one":
		return 1
	case "minority":
		return (n - 1) / 2
	case "majority":
		return n/2 + 1
	}
	return n
}

// chosen is a fault, done to some processes.
type chosen struct {
	fault
	scope string
}

func (c chosen) String() string { return c.name + "@" + c.scope }

// short is what is tried unless CANOPY_TEST_ORACLE says otherwise.
var short = []string{"edge-cut@one", "ingest-kill-uncommitted@one"}

// holds are the faults that the oracle tries by default: those in which every promise holds.
// Those that are left out can be named in CANOPY_TEST_ORACLE_FAULTS.
func holds(f fault) bool { return !f.loses }

// trialPlan is what one run does.
type trialPlan struct {
	seed   uint64
	until  time.Time // further seeds follow until then
	size   int       // NATS nodes; 0: as the seed has it
	faults []chosen
	alone  bool // each in turn, instead of some by chance
	short  bool

	bounded bool // the log forgets after some seconds
}

// most is how many rounds one trial has, or how many faults in turn, in all scopes, so that the last look is not at too much.
const most = 5

// planTrials reads CANOPY_TEST_ORACLE=seed[:minutes], CANOPY_TEST_ORACLE_NODES=1|3,
// CANOPY_TEST_ORACLE_FAULTS=name[@scope],…, which may be "all", CANOPY_TEST_ORACLE_ALONE=1 and
// CANOPY_TEST_ORACLE_BOUNDED=1.
func planTrials(t *testing.T) (p trialPlan) {
	t.Helper()
	text := os.Getenv("CANOPY_TEST_ORACLE")
	if text == "" {
		return trialPlan{seed: 1, size: 1, faults: chooseFaults(t, short), alone: true, short: true}
	}
	seed, minutes, timed := strings.Cut(text, ":")
	var err error
	if p.seed, err = strconv.ParseUint(seed, 10, 64); err != nil {
		t.Fatalf("CANOPY_TEST_ORACLE: %v", err)
	}
	if timed {
		m, err := strconv.ParseFloat(minutes, 64)
		if err != nil {
			t.Fatalf("CANOPY_TEST_ORACLE: %v", err)
		}
		p.until = time.Now().Add(time.Duration(m * float64(time.Minute)))
	}
	p.bounded = os.Getenv("CANOPY_TEST_ORACLE_BOUNDED") != ""
	p.size, p.alone = fromEnviron(t, "CANOPY_TEST_ORACLE_NODES", 0), os.Getenv("CANOPY_TEST_ORACLE_ALONE") != ""
	var names []string
	switch text := os.Getenv("CANOPY_TEST_ORACLE_FAULTS"); text {
	case "", "all":
		for _, f := range allFaults {
			if text == "all" || holds(f) {
				names = append(names, f.name)
			}
		}
	default:
		names = strings.Split(text, ",")
	}
	p.faults = chooseFaults(t, names)
	return p
}

// chooseFaults finds faults by name and scope. Without a scope it is every one.
func chooseFaults(t *testing.T, names []string) (list []chosen) {
	t.Helper()
	for _, name := range names {
		name, scope, scoped := strings.Cut(name, "@")
		i := slices.IndexFunc(allFaults, func(f fault) bool { return f.name == name })
		if i < 0 || scoped && !slices.Contains(scopes, scope) {
			t.Fatalf("there is no fault %s@%s", name, scope)
		}
		if outsideKafka != "" && allFaults[i].part == atKafka {
			t.Logf("left out, since Kafka comes from outside: %s", name)
			continue
		}
		if scoped {
			list = append(list, chosen{allFaults[i], scope})
			continue
		}
		for _, scope := range scopesOf[allFaults[i].part] {
			list = append(list, chosen{allFaults[i], scope})
		}
	}
	return list
}

// TestOracleFindsNothingMissingRepeatedOrOutOfOrderUnderFaults tries a few faults on one node,
// unless CANOPY_TEST_ORACLE says more.
func TestOracleFindsNothingMissingRepeatedOrOutOfOrderUnderFaults(t *testing.T) {
	p := planTrials(t)
	for seed := p.seed; ; seed++ {
		for faults := range p.parts() {
			t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { p.run(t, seed, faults) })
			if t.Failed() {
				return
			}
		}
		if !time.Now().Before(p.until) {
			return
		}
	}
}

// parts are the faults of each trial.
func (p trialPlan) parts() iter.Seq[[]chosen] {
	if p.alone {
		return slices.Chunk(p.faults, most*len(scopes))
	}
	return slices.Values([][]chosen{p.faults})
}

// run is one trial: rounds with one fault each, or several at once.
func (p trialPlan) run(t *testing.T, seed uint64, faults []chosen) {
	size := p.size
	if size == 0 {
		size = 1 + 2*int(seed%2)
	}
	defer func() {
		if t.Failed() {
			t.Log("to run it again: " + p.command(seed, size, faults))
		}
	}()
	var environ []string
	if p.bounded {
		environ = append(environ, "INGEST__RETENTION__EVENTS_PER_APPLICATION="+strconv.Itoa(3*trialRate))
	}
	r := startTrial(t, seed, size, environ...)
	r.forgot.Store(p.bounded)
	r.flow(trialRate)
	if !r.delivered(patience) {
		t.Fatal("no events come before any fault")
	}
	began := time.Now()
	switch {
	case p.short:
		for _, c := range faults {
			r.round([]chosen{c}, time.Second)
		}
	case p.alone:
		for _, c := range faults {
			if r.targets(c) == nil {
				t.Logf("%s: there are not so many", c)
				continue
			}
			r.round([]chosen{c}, 3*time.Second)
		}
	default:
		for range most {
			r.round(r.choose(faults), time.Duration(2000+r.random.IntN(3000))*time.Millisecond)
		}
	}
	v := r.judge()
	t.Logf("seed %d, %d NATS nodes, %.0f s of faults: %d records in Kafka; %v; %d sockets, of which %d closed",
		seed, size, time.Since(began).Seconds(), r.load.acked.Load(), v, r.clients.dials, r.clients.closes)
	if never := slices.DeleteFunc(slices.Clone(oracle.Reasons), func(reason string) bool { return v.Gaps[reason] > 0 }); len(never) > 0 {
		t.Logf("no gap event with the reasons %v came in this run, which says nothing about them", never)
	}
	for _, f := range v.Faults {
		t.Error(f)
	}
	if v.Named > 0 && !r.forgot.Load() {
		t.Errorf("%d records were only named by gap events, although Kafka and the log's bounds held all of them", v.Named)
	}
	if v.Broken() {
		r.tell()
	}
}

// command runs a trial again.
func (p trialPlan) command(seed uint64, size int, faults []chosen) string {
	if p.short {
		return "go test ./deployments/e2e -run Oracle -v"
	}
	alone, names := "", os.Getenv("CANOPY_TEST_ORACLE_FAULTS")
	if p.alone {
		alone, names = " CANOPY_TEST_ORACLE_ALONE=1", strings.Trim(strings.ReplaceAll(fmt.Sprint(faults), " ", ","), "[]")
	}
	if p.bounded {
		alone += " CANOPY_TEST_ORACLE_BOUNDED=1"
	}
	return fmt.Sprintf("CANOPY_TEST_ORACLE=%d CANOPY_TEST_ORACLE_NODES=%d CANOPY_TEST_ORACLE_FAULTS=%s%s go test ./deployments/e2e -run Oracle -v", seed, size, names, alone)
}

// choose picks a fault by chance, and now and then further ones for other parts.
func (r *trial) choose(from []chosen) (list []chosen) {
	for _, i := range r.random.Perm(len(from)) {
		c := from[i]
		apart := slices.ContainsFunc(list, func(o chosen) bool {
			return o.part == c.part || o.loaded && c.part == atKafka || c.loaded && o.part == atKafka
		})
		if apart || r.targets(c) == nil || c.alone && len(list) > 0 {
			continue
		}
		list = append(list, c)
		if c.alone || len(list) == 3 || r.random.IntN(2) == 0 {
			break
		}
	}
	// What waits until all is delivered comes before what keeps that from happening.
	slices.SortStableFunc(list, func(a, b chosen) int { return r.rank(a) - r.rank(b) })
	return list
}

func (r *trial) rank(c chosen) int {
	return slices.Index([]string{atKafka, atNodes, atIngests, atEdges}, c.part)
}

// targets are the processes that a fault is done to, by chance; nil if there are not so many.
func (r *trial) targets(c chosen) []int {
	n := map[string]int{atNodes: len(r.cluster.list), atIngests: len(r.ingests), atEdges: len(r.edges), atKafka: 1}[c.part]
	k := count(c.scope, n)
	if k == 0 || n == 1 && c.scope != "all" || strings.HasPrefix(c.name, "routes") && n == 1 {
		return nil
	}
	return r.random.Perm(n)[:k]
}

// round does some faults at once, and ends them.
func (r *trial) round(list []chosen, hold time.Duration) {
	r.world.t.Helper()
	began := time.Now()
	var ends []func() (string, bool)
	for _, c := range list {
		ends = append(ends, c.begin(r, r.targets(c)))
		if c.forgets {
			r.forgot.Store(true)
		}
	}
	<-time.After(hold)
	for i, c := range slices.Backward(list) {
		proof, held := ends[i]()
		r.world.t.Logf("%5.1f s  %s: %s", time.Since(began).Seconds(), c, proof)
		if !held {
			r.world.t.Errorf("%s did not happen: %s", c, proof)
		}
	}
	r.awaitStreams()
	r.awaitReady()
	if r.delivered(patience / 3) {
		return
	}
	r.tell() // while it can be seen
	if !r.delivered(patience) {
		r.world.t.Errorf("events do not flow to every socket %v after %v", patience, list)
	}
}
