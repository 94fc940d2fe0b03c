package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"canopy/shared/config"
	"canopy/shared/natstest"
	"canopy/shared/obs"
)

const childVariable = "CANOPY_GATEWAY_CHILD"

// TestMain lets the test binary be an edge of its own, which can be killed, or many clients.
func TestMain(m *testing.M) {
	be := runChild
	switch {
	case os.Getenv(crowdURL) != "":
		be = beCrowd
	case os.Getenv(childVariable) == "":
		os.Exit(m.Run())
	}
	if err := be(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// runChild is an edge until standard input ends, which it does with the parent at the latest.
func runChild() error {
	cfg, err := config.Read("", os.Environ())
	if err != nil {
		return err
	}
	log, err := obs.NewLogger(cfg.Runtime.Log, "canopy-edge")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // any end is an end
		cancel()
	}()
	return Run(ctx, cfg, log, func(a Addrs) { fmt.Println("edge:", a.HTTP, a.Health) })
}

// startChild runs an edge in a process of its own until the test ends or kill is called.
func startChild(t *testing.T, natsURL, file string) (s *stack, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1", "NATS__URL="+natsURL, "EDGE__APPLICATIONS_FILE="+file,
		"EDGE__LIMITS__HALF_OPEN_PER_ADDRESS=0", // all clients have one address
		"HTTP__BIND_ADDR=127.0.0.1:0", "RUNTIME__HEALTH__BIND_ADDR=127.0.0.1:0", "RUNTIME__LOG__LEVEL=error", "RUNTIME__LOG__FORMAT=console")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	kill = func() {
		if !killed {
			killed = true
			_ = cmd.Process.Kill() // fails only if it has ended
			_ = cmd.Wait()
			_ = stdin.Close()
		}
	}
	t.Cleanup(kill)
	s = &stack{t: t}
	for lines := bufio.NewScanner(stdout); s.http == ""; {
		if !lines.Scan() {
			t.Fatal("the edge did not start")
		}
		_, _ = fmt.Sscanf(lines.Text(), "edge: %s %s", &s.http, &s.admin) // other lines are not for us
	}
	s.waitReady()
	return s, kill
}

// manyApplications writes a file of n public applications and gives their names.
func manyApplications(t *testing.T, n int) (names []string, file string) {
	t.Helper()
	var b strings.Builder
	b.WriteString("applications:\n")
	for i := range n {
		names = append(names, fmt.Sprintf("app-%d", i))
		fmt.Fprintf(&b, "  app-%d:\n    public: true\n", i)
	}
	file = filepath.Join(t.TempDir(), "applications.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return names, file
}

// sizeOf is a number from the environment, or a default that suits any machine.
func sizeOf(t *testing.T, variable string, usual int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// work is CPU time: of edges in processes of their own, and of this process.
type work struct{ edges, here time.Duration }

// spent is the CPU time that was used so far. On a machine that others use, too, it says more
// than the time that passed.
func spent(t *testing.T, edges []*stack) (w work) {
	t.Helper()
	for _, e := range edges {
		w.edges += time.Duration(e.metric("process_cpu_seconds_total") * float64(time.Second))
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	w.here = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	return w
}

// TestClientsOfAKilledEdgeComeBackOnTheOthersAndMissNothing has 500 clients, or as many as
// CANOPY_TEST_CLIENTS says.
func TestClientsOfAKilledEdgeComeBackOnTheOthersAndMissNothing(t *testing.T) {
	const applications, perSecond, limit = 10, 5, 10 * time.Second
	clients := sizeOf(t, "CANOPY_TEST_CLIENTS", 500)
	server := natstest.Start(t)
	s := &stack{t: t, js: natstest.Streams(t, server.Connect(), shards)}
	names, file := manyApplications(t, applications)
	var edges []*stack
	var kills []func()
	for range 3 {
		edge, kill := startChild(t, server.URL(), file)
		edges, kills = append(edges, edge), append(kills, kill)
	}
	var killed atomic.Bool
	choose := func() []string {
		if killed.Load() {
			return []string{edges[1].http, edges[2].http}
		}
		return []string{edges[0].http}
	}
	var members []*member
	for i := range clients {
		members = append(members, &member{application: names[i%applications], edges: choose})
	}
	for i := range applications { // one edge knows the applications, the other does not
		members = append(members, &member{application: names[i], edges: func() []string { return []string{edges[1].http} }})
	}
	f := startFleet(t, members)
	f.await("connect", 3*patience, func(m *member) bool { return m.opened.Load() == 1 })
	load := s.startFlow(names, perSecond)
	f.await("get events", patience, func(m *member) bool { return m.last.Load() >= 10 })

	begun := spent(t, edges[1:])
	at := time.Now()
	kills[0]()
	for known := load.published[0].Load() + 5; load.published[0].Load() < known; <-time.After(time.Millisecond) {
		// Whoever sends clients to edges notices late, so that they miss events.
	}
	killed.Store(true)
	f.await("come back", patience, func(m *member) bool {
		return m.opened.Load() == 2 || m.edges()[0] == edges[1].http && len(m.edges()) == 1
	})
	latest := at
	for _, m := range members[:clients] {
		if since := time.Unix(0, m.since.Load()); since.After(latest) {
			latest = since
		}
	}
	done := spent(t, edges[1:])
	t.Logf("until all were back the two edges used %v of CPU time, and the clients, NATS and the load %v",
		done.edges-begun.edges, done.here-begun.here)
	before := members[0].last.Load()
	f.await("get more events", patience, func(m *member) bool { return m.last.Load() >= before+10 })
	last, all := load.stop()
	numbers := map[string]int64{}
	for i, name := range names {
		numbers[name] = last[i]
	}
	f.await("get every event", patience, func(m *member) bool { return m.last.Load() == numbers[m.application] })
	reads, replays := 0.0, 0.0
	for _, edge := range edges[1:] {
		reads += edge.metric("canopy_edge_replay_reads_total")
		replays += edge.metric("canopy_edge_replays_total")
	}
	t.Logf("%d clients, the last of them back after %v; %d events, each once and in order; %v sockets began with events from the stream, in %v reads",
		clients, latest.Sub(at), all, replays, reads)
	if latest.Sub(at) > limit {
		t.Errorf("the last client was back after %v, want %v", latest.Sub(at), limit)
	}
	// Each edge reads an event once at most, whatever number of clients has missed it.
	if replays < float64(clients)/10 || reads > float64(2*all) {
		t.Errorf("%v reads from the stream for %v of %d clients and %d events: want many clients, who share few reads", reads, replays, clients, all)
	}
}
