//go:build linux

// Command bench measures Canopy beside the least that any server must do, and beside
// others that do the same job, in one run, and writes bench/RESULTS.md with pictures. It
// starts everything it needs: Kafka, NATS, ingest and edges, the floor, the others and the
// clients, each a process of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"canopy/bench/drain"
	"canopy/bench/floor"
	"canopy/bench/gateway"
	"canopy/bench/load"
	"canopy/bench/peer"
	"canopy/bench/solo"
	"canopy/bench/under"
)

// known are the rows that can be measured; those of usual are, unless others are asked for.
var (
	usual = []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "12"}
	known = append(slices.Clone(usual), fleetRow, curvesRow, crowdMembers, crowdGroups)
)

// options are the command line's flags.
type options struct {
	sockets    int
	rounds     int
	size       int
	events     int
	burst      int
	floorBurst int
	clients    int
	latency    latencyOptions
	way        wayOptions
	stall      stallOptions
	group      groupOptions
	crowd      crowdOptions
	handshakes int
	scale      scaleOptions
	fleet      fleetOptions
	curveMost  int
	neighbour  neighbourOptions
	rows       string
	edge       string
	ingest     string
	out        string
}

func main() {
	if len(os.Args) > 1 {
		if serve, ok := children[os.Args[1]]; ok {
			exit(serve(os.Stdin, os.Stdout))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	opts, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		err = run(ctx, opts)
	}
	exit(err)
}

// children are the processes that this program starts of itself.
var children = map[string]func(io.Reader, io.Writer) error{
	drain.Command:     drain.Serve,
	gateway.Command:   gateway.Serve,
	floor.Command:     floor.Serve,
	solo.Command:      solo.Serve,
	peer.Command:      peer.Serve,
	under.NATSCommand: under.ServeNATS, under.KafkaCommand: under.ServeKafka,
}

func exit(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.IntVar(&o.sockets, "sockets", 10_000, "open `sockets` on the edge, and as many on the floor")
	flags.IntVar(&o.rounds, "rounds", 5, "`rounds` that each figure is measured in, one after the other by turns")
	flags.IntVar(&o.size, "size", 512, "`bytes` of each event's JSON, without the cursor")
	flags.IntVar(&o.events, "events", 25, "`events` per round of row 1, one at a time")
	flags.IntVar(&o.burst, "burst", 3_000, "`events` per round of row 2, all at once, to the edge")
	flags.IntVar(&o.floorBurst, "floor-burst", 30, "`events` per round of row 2 to the floor, which takes the same time for each")
	flags.IntVar(&o.clients, "clients", min(2, runtime.NumCPU()), "client `processes` per server")
	flags.IntVar(&o.latency.burst, "saturation-burst", 30, "`events` of row 5, all at once, that show how much each contestant delivers")
	flags.IntVar(&o.latency.queue, "peer-queue", 64, "`events` that may wait for each socket of the servers made with gws and coder/websocket")
	flags.DurationVar(&o.latency.phase, "latency-phase", 5*time.Second, "`time` that each contestant of row 5 gets events for in each round")
	flags.IntVar(&o.stall.sockets, "stall-sockets", 5_000, "`sockets` of row 6 in all")
	flags.IntVar(&o.stall.stalled, "stalled", 500, "`sockets` of row 6 that are not read in the phases with stalled readers")
	flags.IntVar(&o.stall.burst, "stall-burst", 1_000, "`events` before each phase of row 6, all at once, that fill the stalled sockets' buffers")
	flags.Float64Var(&o.stall.rate, "rate", 5, "`events` per second of row 6, evenly")
	flags.DurationVar(&o.stall.phase, "phase", 8*time.Second, "`time` that each phase of row 6 is measured for")
	flags.IntVar(&o.group.members, "group-members", 8, "`members` of the group of row 7, and subscriptions of its peer")
	flags.IntVar(&o.group.events, "group-events", 150_000, "`events` per round of row 7, which wait when the members come")
	flags.IntVar(&o.way.events, "way-events", 30_000, "`events` per round of row 3, which wait in Kafka when an ingest starts; the row is measured together with row 8")
	flags.IntVar(&o.way.sockets, "way-sockets", 100, "`sockets` of row 3")
	flags.IntVar(&o.way.records, "ingest-records", 60_000, "`records` per round of row 8, which wait in Kafka when an ingest starts")
	flags.IntVar(&o.handshakes, "handshakes", 8_000, "`sockets` per round of row 9, each with a token of its own")
	flags.IntVar(&o.scale.many, "scale-sockets", 100_000, "`sockets` of row 10 in all; as many again are opened on the floor")
	flags.IntVar(&o.scale.edges, "scale-edges", 6, "`edges` that share the sockets of row 10")
	flags.IntVar(&o.scale.few, "scale-few", 1_000, "`sockets` of row 10 on one edge, which the others are compared to")
	flags.IntVar(&o.scale.events, "scale-events", 2, "`events` per round of row 10 to all sockets; the few get more, for as many deliveries")
	flags.IntVar(&o.neighbour.quiet, "quiet-sockets", 100, "`sockets` of row 12's quiet application")
	flags.IntVar(&o.neighbour.busy, "busy-sockets", 2_000, "`sockets` of row 12's busy application")
	flags.IntVar(&o.neighbour.burst, "busy-burst", 200, "`events` of row 12's busy application that are sent at once")
	flags.Float64Var(&o.neighbour.rate, "quiet-rate", 50, "`events` per second of row 12's quiet application, evenly")
	flags.DurationVar(&o.neighbour.phase, "quiet-phase", 4*time.Second, "`time` that each phase of row 12 is measured for")
	flags.IntVar(&o.crowd.size, "crowd", 10_000, "`sockets` of the rows members (all in one group) and groups (each in its own)")
	flags.IntVar(&o.crowd.events, "crowd-events", 20_000, "`events` of the row members; the row groups has one per 2,000 of these")
	o.fleet.define(flags)
	flags.IntVar(&o.curveMost, "curve-sockets", 100_000, "most `sockets` of the row curves")
	flags.StringVar(&o.rows, "rows", strings.Join(usual, ","), "`rows` to measure, separated by commas")
	flags.StringVar(&o.edge, "edge", "", "`path` of a canopy-edge to measure; empty builds bin/canopy-edge")
	flags.StringVar(&o.ingest, "ingest", "", "`path` of a canopy-ingest to measure; empty builds bin/canopy-ingest")
	flags.StringVar(&under.Profiles, "profiles", "", "`folder` for processor profiles of Canopy's processes, one for each second; it costs them a little time")
	flags.StringVar(&o.out, "out", "bench/RESULTS.md", "`file` for the results; - is standard output")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	return o, o.check()
}

func (o options) check() error {
	var errs []error
	for _, n := range []struct {
		name  string
		value int
	}{
		{"sockets", o.sockets}, {"rounds", o.rounds}, {"events", o.events}, {"burst", o.burst},
		{"floor-burst", o.floorBurst}, {"clients", o.clients},
	} {
		if n.value < 1 {
			errs = append(errs, fmt.Errorf("-%s: expected at least 1", n.name))
		}
	}
	if o.sockets < o.clients {
		errs = append(errs, errors.New("-sockets: expected one per client process at least"))
	}
	if o.handshakes < o.clients {
		errs = append(errs, errors.New("-handshakes: expected one per client process at least"))
	}
	errs = append(errs, o.latency.check(), o.way.check(o.clients), o.scale.check(), o.fleet.check(), o.neighbour.check(o.clients), o.stall.check(o.clients), o.group.check(o.clients), o.crowd.check(o.clients))
	if err := load.CheckSize(o.size); err != nil {
		errs = append(errs, fmt.Errorf("-size: %w", err))
	}
	for row := range strings.SplitSeq(o.rows, ",") {
		if !slices.Contains(known, row) {
			errs = append(errs, fmt.Errorf("-rows: row %q is not measured here; expected some of %v", row, known))
		}
	}
	for _, row := range []string{fleetRow, curvesRow} {
		if o.wants(row) && o.rows != row {
			errs = append(errs, fmt.Errorf("-rows: row %s is measured alone", row))
		}
	}
	return errors.Join(errs...)
}

// wants says whether row is to be measured.
func (o options) wants(row string) bool { return slices.Contains(strings.Split(o.rows, ","), row) }
