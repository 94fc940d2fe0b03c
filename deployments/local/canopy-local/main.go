// Command canopy-local runs the whole of Canopy on one machine, in one process.
package main

import (
	"errors"
	"fmt"
	"os"

	"canopy/deployments/local"
	"canopy/shared/config"
	"canopy/shared/obs"
)

const (
	tool = "canopy-local"

	exitOK, exitRuntime, exitConfig = 0, 1, 2
)

// commandLine is kong's grammar.
type commandLine struct {
	config.Flags
	Run    struct{} `cmd:"" default:"1" help:"Run the stack. This is what happens without a command."`
	Health obs.Ask  `cmd:"" help:"Ask the stack that runs in another process at LOCAL__HEALTH_ADDR whether it is ready; status 1 if not."`
}

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	var cli commandLine
	command, err := config.Parse(tool, local.Help, &cli, args, os.Stdout)
	if errors.Is(err, config.ErrDone) {
		return exitOK
	}
	if err != nil {
		return fail(exitConfig, err)
	}
	cfg, err := local.Load(cli.Config, os.Environ())
	if err != nil {
		return fail(exitConfig, err)
	}
	if command == "health" {
		if err := cfg.Ask(cli.Health, os.Stdout); err != nil {
			return fail(exitRuntime, err)
		}
		return exitOK
	}
	log, err := obs.NewLogger(cfg.Settings.Runtime.Log, tool)
	if err != nil {
		return fail(exitConfig, err)
	}
	if err := local.Run(obs.Signals(log), cfg, log, os.Stdout, nil); err != nil {
		return fail(exitRuntime, err)
	}
	return exitOK
}

func fail(status int, err error) int {
	fmt.Fprintf(os.Stderr, "%s: %v\n", tool, err)
	return status
}
