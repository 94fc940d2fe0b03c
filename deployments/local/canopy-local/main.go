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

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	var flags config.Flags
	_, err := config.Parse(tool, local.Help, &flags, args, os.Stdout)
	if errors.Is(err, config.ErrDone) {
		return exitOK
	}
	if err != nil {
		return fail(exitConfig, err)
	}
	cfg, err := local.Load(flags.Config, os.Environ())
	if err != nil {
		return fail(exitConfig, err)
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
