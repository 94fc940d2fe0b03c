//go:build linux

// Command attack lets hostile clients loose on two edges, one with TLS and one without, while
// honest ones watch: they check that nothing is lost, repeated or out of order, that nobody of
// them is closed, and how late their events are, before the attack and during it.
//
//	go run ./deployments/attack                                # all kinds at once
//	go run ./deployments/attack -attacks keyupdates -hostile 1
//	go run ./deployments/attack -edge PATH                     # another canopy-edge
//
// It starts everything that it needs on loopback: NATS, the edges, and the hostile clients as a
// process of the lowest priority, since they would have machines of their own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"canopy/bench/under"
)

// options are the command line's flags.
type options struct {
	edge        string
	attacks     []string
	honest      int
	hostile     int
	rate        float64
	quiet       time.Duration
	attack      time.Duration
	socketBytes string
	history     int
	factor      float64
	floor       time.Duration
	memory      int64 // MiB
}

func main() {
	if len(os.Args) > 1 {
		if serve, ok := children[os.Args[1]]; ok {
			exit(serve(os.Stdin, os.Stdout))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	var r report
	if err == nil {
		r, err = run(ctx, o, os.Stderr)
	}
	if err == nil {
		r.write(os.Stdout)
		err = r.fault(o)
	}
	exit(err)
}

// children are the processes that this program starts of itself.
var children = map[string]func(io.Reader, io.Writer) error{
	under.NATSCommand: under.ServeNATS,
	hostileCommand:    serveHostile,
}

func exit(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "attack: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func parse(args []string) (options, error) {
	var o options
	var attacks string
	flags := flag.NewFlagSet("attack", flag.ContinueOnError)
	flags.StringVar(&o.edge, "edge", "", "`path` of the canopy-edge to attack; empty builds bin/canopy-edge")
	flags.StringVar(&attacks, "attacks", strings.Join(kindNames(), ","), "`kinds` of attack, separated by commas, all at once")
	flags.IntVar(&o.honest, "honest", 2_000, "honest `sockets`, half of them on each edge")
	flags.IntVar(&o.hostile, "hostile", 200, "hostile `connections` at once, shared by the kinds")
	flags.Float64Var(&o.rate, "rate", 10, "`events` a second that the honest get")
	flags.DurationVar(&o.quiet, "quiet", 15*time.Second, "`time` before the attack")
	flags.DurationVar(&o.attack, "for", 30*time.Second, "`time` of the attack")
	flags.StringVar(&o.socketBytes, "socket-bytes", "8MiB", "EDGE__BUFFERS__SOCKET_BYTES, a `size`")
	flags.IntVar(&o.history, "history", 100_000, "`events` in the log of the application that replays are asked of")
	flags.Float64Var(&o.factor, "factor", 2, "p99 during the attack by p99 before it, above which this fails; 0 is any")
	flags.DurationVar(&o.floor, "floor", 0, "p99 during the attack below which it is right whatever it was before")
	flags.Int64Var(&o.memory, "memory", 256, "`MiB` by which an edge may grow in the attack")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.attacks = strings.Split(attacks, ",")
	return o, o.check()
}

func (o options) check() error {
	for _, name := range o.attacks {
		if !slices.Contains(kindNames(), name) {
			return fmt.Errorf("-attacks: %q is none of %v", name, kindNames())
		}
	}
	if o.honest < 2 || o.hostile < len(o.attacks) || o.rate <= 0 || o.history < 1 {
		return errors.New("expected 2 -honest or more, one -hostile for each kind, and a -rate and -history above 0")
	}
	return nil
}

// build makes bin/canopy-edge if no other is given.
func (o *options) build(ctx context.Context) error {
	if o.edge != "" {
		return nil
	}
	o.edge = filepath.Join("bin", "canopy-edge")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", o.edge, "./edge")
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build canopy-edge: %w", err)
	}
	return nil
}

// run attacks and reports. What it is doing goes to progress.
func run(ctx context.Context, o options, progress io.Writer) (r report, err error) {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(progress, format+"\n", args...) }
	if err := o.build(ctx); err != nil {
		return r, err
	}
	w, err := newWorld(ctx, o)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	say("%d honest sockets open", o.honest)
	h, err := openHonest(ctx, w, o.honest)
	if err != nil {
		return r, err
	}
	defer h.close()
	publishing := publish(ctx, w.stream, o.rate)
	defer func() { _, _ = publishing.stop() }()
	say("quiet for %v", o.quiet)
	if r.quiet, err = watch(ctx, w, h, o.quiet); err != nil {
		return r, err
	}
	attackers, err := startHostile(w, o)
	if err != nil {
		return r, err
	}
	say("attack for %v: %s", o.attack, strings.Join(o.attacks, ", "))
	r.attack, err = watch(ctx, w, h, o.attack)
	outcomes, stopErr := attackers.stop()
	r.outcomes = outcomes
	if err = errors.Join(err, stopErr); err != nil {
		return r, err
	}
	say("attack is over")
	if r.published, err = publishing.stop(); err != nil {
		return r, err
	}
	r.honest = h.await(ctx, r.published)
	r.attack.add(h.take()) // what came too late for that is the latest of all
	r.logs = w.logs()
	return r, nil
}
