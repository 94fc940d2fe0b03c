//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"canopy/bench/drain"
	"canopy/bench/gateway"
	"canopy/bench/load"
	"canopy/bench/report"
	"canopy/bench/usage"
	"canopy/deployments/local/issuer"
)

const (
	goalHandshakes = 0.9 // Canopy's handshakes a second by the peer's

	audience      = "canopy"
	tokenLifetime = time.Hour
	reader        = "drogue-user" // a role that all tokens of the issuer carry
)

// doorkeeper is a server whose handshakes are counted.
type doorkeeper struct {
	name  string
	url   string
	pid   int
	empty func(context.Context) error // returns when the server has no sockets any more
}

// welcome is what one round of a doorkeeper has shown.
type welcome struct {
	sockets int
	took    time.Duration // from before the first handshake to behind the last
	cpu     time.Duration // of the server's process, for opening and closing all of them
}

func (w welcome) rate() float64         { return float64(w.sockets) / w.took.Seconds() }
func (w welcome) cpuPerSocket() float64 { return float64(w.cpu.Microseconds()) / float64(w.sockets) }

// entrance is a stage to which sockets come with tokens.
type entrance struct {
	*ward
	issuer *http.Server
	peer   *gateway.Process
	tokens []string
}

// rowNine is the handshakes a second, every one with a token of its own.
func rowNine(ctx context.Context, o options) (row report.Row, err error) {
	e := &entrance{ward: &ward{stage: &stage{
		opts: o, access: "applications:\n  " + load.Application + ":\n    members:\n      role:" + reader + ": [read]\n",
	}}}
	defer func() { err = errors.Join(err, e.close()) }()
	both, err := e.openDoors(ctx)
	if err != nil {
		return row, err
	}
	if err := e.refuseStrangers(both); err != nil {
		return row, err
	}
	var rounds [2][]welcome
	for round := -1; round < o.rounds; round++ { // what is made once is made in the round before
		for turn := range both {
			i := (round + 1 + turn) % len(both)
			got, err := e.let(ctx, both[i])
			if err != nil {
				return row, fmt.Errorf("round %d, %s: %w", round+1, both[i].name, err)
			}
			if round < 0 {
				continue
			}
			rounds[i] = append(rounds[i], got)
			progress("row 9, round %d of %d: %s: %s handshakes/s, %.0f µs of CPU each", round+1, o.rounds,
				both[i].name, report.Count(uint64(got.rate())), got.cpuPerSocket())
		}
	}
	return rowNineResults(o, both, rounds), nil
}

// openDoors starts the issuer, which signs all tokens, and both servers.
func (e *entrance) openDoors(ctx context.Context) (both [2]doorkeeper, err error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return both, fmt.Errorf("listen for the issuer: %w", err)
	}
	address := "http://" + listener.Addr().String()
	signer, err := issuer.New(issuer.Config{URL: address, Audience: audience})
	if err != nil {
		return both, errors.Join(err, listener.Close())
	}
	e.issuer = &http.Server{Handler: signer.Handler(), ReadHeaderTimeout: time.Minute}
	go func() { _ = e.issuer.Serve(listener) }() // ends with close
	progress("signing %d tokens", e.opts.handshakes)
	if e.tokens, err = sign(signer, e.opts.handshakes); err != nil {
		return both, err
	}
	if err := e.stage.open(ctx, "OAUTH__ISSUER_URL="+address, "OAUTH__CLIENTS__0__CLIENT_ID="+audience); err != nil {
		return both, err
	}
	e.peer, err = gateway.Start(gateway.Config{
		Library: gateway.GWS, NATS: e.nats.URL(), Application: load.Application, Queue: e.opts.latency.queue, Issuer: address, Audience: audience,
	})
	if err != nil {
		return both, err
	}
	return [2]doorkeeper{
		{"Canopy", e.edge.URL(), e.edge.PID(), func(ctx context.Context) error {
			_, err := e.await(ctx, metricOpen, 0)
			return err
		}},
		{"net/http and gws", e.peer.URL(), e.peer.PID(), func(context.Context) error { return e.peer.Await(0, closePatience) }},
	}, nil
}

// sign makes n tokens, each of a user of its own.
func sign(by *issuer.Issuer, n int) ([]string, error) {
	tokens := make([]string, n)
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	for i := range tokens {
		group.Go(func() (err error) {
			tokens[i], err = by.Token("user-"+strconv.Itoa(i), tokenLifetime)
			return err
		})
	}
	return tokens, group.Wait()
}

// refuseStrangers is an error if a server lets in who brings no good token: then it does
// not verify them, and its handshakes do not count.
func (e *entrance) refuseStrangers(both [2]doorkeeper) error {
	spoiled := []byte(e.tokens[0])
	spoiled[len(spoiled)/2] ^= 1 // inside the claims
	for _, server := range both {
		crew, err := drain.Start(drain.Config{URL: server.url, Sockets: 1, Tokens: []string{string(spoiled)}}, 1, openPatience)
		if err == nil {
			return errors.Join(fmt.Errorf("%s lets in a socket whose token is forged", server.name), crew.Stop())
		}
	}
	return nil
}

// let opens all sockets at one server, and closes them.
func (e *entrance) let(ctx context.Context, at doorkeeper) (w welcome, err error) {
	before, err := usage.CPU(at.pid)
	if err != nil {
		return w, err
	}
	crew, err := drain.Start(drain.Config{URL: at.url, Sockets: len(e.tokens), Tokens: e.tokens}, e.opts.clients, openPatience)
	if err != nil {
		return w, err
	}
	seen, err := crew.Snapshot()
	if err == nil && seen.Open != len(e.tokens) {
		err = fmt.Errorf("%d of %d sockets are open: %v", seen.Open, len(e.tokens), seen.Reasons)
	}
	if err := errors.Join(err, crew.Stop()); err != nil {
		return w, err
	}
	if err := at.empty(ctx); err != nil {
		return w, err
	}
	after, err := usage.CPU(at.pid)
	opening := crew.Opening()
	return welcome{sockets: len(e.tokens), took: opening.To.Sub(opening.From), cpu: after - before}, err
}

func (e *entrance) close() error {
	var errs []error
	if e.peer != nil {
		errs = append(errs, e.peer.Stop())
	}
	errs = append(errs, e.stage.close())
	if e.issuer != nil {
		errs = append(errs, e.issuer.Close())
	}
	return errors.Join(errs...)
}

func rowNineResults(o options, both [2]doorkeeper, rounds [2][]welcome) report.Row {
	row := report.Row{
		Title: "9. Handshakes per second, every one with a token of its own",
		What: fmt.Sprintf("%d sockets are opened, %d at a time by each of %d client processes; each brings a token (RS256, 2048 bits) that no other one brings. "+
			"*Canopy* verifies it, and looks up whether its user may read the application. *net/http and gws* verifies it with the same libraries (keyfunc, golang-jwt) and looks nothing up. "+
			"Both refuse a forged token, which is tried first. The processor time is that of the server's process and includes the end of all sockets.",
			o.handshakes, drain.DefaultConcurrency, o.clients),
	}
	values := func(i int, figure func(welcome) float64) (list []float64) {
		for _, w := range rounds[i] {
			list = append(list, figure(w))
		}
		return list
	}
	ratio := func(figure func(welcome) float64) []float64 {
		list := values(0, figure)
		for i, by := range values(1, figure) {
			list[i] /= by
		}
		return list
	}
	row.Results = []report.Result{
		{Name: "ratio: handshakes/s, Canopy to " + both[1].name, Values: ratio(welcome.rate), Digits: 2, Goal: &report.Goal{AtLeast: true, Value: goalHandshakes}},
		{Name: "ratio: CPU per socket, Canopy to " + both[1].name, Values: ratio(welcome.cpuPerSocket), Digits: 2},
	}
	row.Head = []string{"round", "server", "sockets", "seconds", "handshakes/s", "server's CPU seconds", "CPU µs per socket"}
	for i, server := range both {
		row.Results = append(row.Results,
			report.Result{Name: server.name, Values: values(i, welcome.rate), Unit: "handshakes/s"},
			report.Result{Name: server.name + ", CPU per socket", Values: values(i, welcome.cpuPerSocket), Unit: "µs"})
	}
	row.Pictures = []report.Picture{{Title: row.Title, Axis: "handshakes/s", Bars: row.Pick(both[0].name, both[1].name)}}
	for round := range rounds[0] {
		for i, server := range both {
			w := rounds[i][round]
			row.Raw = append(row.Raw, []string{
				strconv.Itoa(round + 1), server.name, report.Count(uint64(w.sockets)), fmt.Sprintf("%.3f", w.took.Seconds()),
				report.Count(uint64(w.rate())), fmt.Sprintf("%.3f", w.cpu.Seconds()), fmt.Sprintf("%.0f", w.cpuPerSocket()),
			})
		}
	}
	return row
}
