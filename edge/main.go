// Command canopy-edge pushes applications' events from NATS to WebSockets.
package main

import (
	"errors"
	"fmt"
	"os"

	"canopy/edge/gateway"
	"canopy/shared/config"
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
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	var cli commandLine
	command, err := config.Parse(tool, help, &cli, args, os.Stdout)
	if errors.Is(err, config.ErrDone) {
		return exitOK
	}
	if err != nil {
		return fail(exitConfig, err)
	}
	if command == "hash-key" {
		if err := cli.HashKey.print(os.Stdin, os.Stdout); err != nil {
			return fail(exitConfig, err)
		}
		return exitOK
	}
	cfg, err := config.Read(cli.Config, os.Environ())
	if err := config.Join(err, cfg.ValidateEdge()); err != nil {
		return fail(exitConfig, err)
	}
	log, err := obs.NewLogger(cfg.Runtime.Log, tool)
	if err != nil {
		return fail(exitConfig, err)
	}
	if err := gateway.Run(obs.Signals(log), cfg, log, nil); err != nil {
		return fail(exitRuntime, err)
	}
	return exitOK
}

func fail(status int, err error) int {
	fmt.Fprintf(os.Stderr, "%s: %v\n", tool, err)
	return status
}
