// Command canopy-edge pushes applications' events from NATS to WebSockets.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"canopy/edge/gateway"
	"canopy/edge/internal/procs"
	"canopy/shared/config"
	"canopy/shared/garbage"
	"canopy/shared/obs"
)

const (
	tool = "canopy-edge"
	help = "Pushes applications' events from NATS to WebSockets."

	exitOK, exitRuntime, exitConfig = 0, 1, 2
)

// commandLine is kong's grammar.
type commandLine struct {
	config.Flags
	Run     struct{} `cmd:"" default:"1" help:"Serve WebSockets. This is what happens without a command."`
	HashKey hashKey  `cmd:"" help:"Read an API key from standard input and print its line for the applications file."`
	Health  obs.Ask  `cmd:"" help:"Ask the edge that runs here at RUNTIME__HEALTH__BIND_ADDR whether it is ready; status 1 if not."`
}

func main() {
	procs.Spare(os.Getenv("GOMAXPROCS"))
	go garbage.Run(context.Background())
	status, err := run(os.Args[1:], os.Environ(), os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", tool, err)
	}
	os.Exit(status)
}

// run is main with its surroundings handed in. It blocks until the daemon has stopped.
func run(args, environ []string, in io.Reader, out io.Writer) (status int, err error) {
	var cli commandLine
	command, err := config.Parse(tool, help, &cli, args, out)
	if errors.Is(err, config.ErrDone) {
		return exitOK, nil
	}
	if err != nil {
		return exitConfig, err
	}
	if command == "hash-key" {
		if err := cli.HashKey.print(in, out); err != nil {
			return exitConfig, err
		}
		return exitOK, nil
	}
	cfg, err := config.Read(cli.Config, environ)
	if command == "health" {
		return askHealth(cli.Health, cfg, err, out)
	}
	if err := config.Join(err, cfg.ValidateEdge()); err != nil {
		return exitConfig, err
	}
	log, err := obs.NewLogger(cfg.Runtime.Log, tool)
	if err != nil {
		return exitConfig, err
	}
	if err := gateway.Run(obs.Signals(log), cfg, log, nil); err != nil {
		return exitRuntime, err
	}
	return exitOK, nil
}

// askHealth answers the command health. problems are those of cfg.
func askHealth(command obs.Ask, cfg config.Config, problems error, out io.Writer) (status int, err error) {
	if problems != nil {
		return exitConfig, problems
	}
	if err := command.Do(cfg.Runtime.Health.BindAddr, out); err != nil {
		return exitRuntime, err
	}
	return exitOK, nil
}
