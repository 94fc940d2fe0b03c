// Command canopy-ingest reads devices' events from Kafka and publishes them to NATS.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"canopy/ingest/bridge"
	"canopy/shared/config"
	"canopy/shared/garbage"
	"canopy/shared/obs"
)

const (
	tool = "canopy-ingest"
	help = "Reads devices' events from Kafka and publishes them to NATS JetStream."

	exitOK, exitRuntime, exitConfig = 0, 1, 2
)

func main() {
	go garbage.Run(context.Background())
	status, err := run(os.Args[1:], os.Environ(), os.Stdout)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", tool, err)
	}
	os.Exit(status)
}

// run is main with its surroundings handed in. It blocks until the daemon has stopped.
func run(args, environ []string, out io.Writer) (status int, err error) {
	var cli config.Flags
	_, err = config.Parse(tool, help, &cli, args, out)
	if errors.Is(err, config.ErrDone) {
		return exitOK, nil
	}
	if err != nil {
		return exitConfig, err
	}
	cfg, err := config.Read(cli.Config, environ)
	if err := config.Join(err, cfg.ValidateIngest()); err != nil {
		return exitConfig, err
	}
	log, err := obs.NewLogger(cfg.Runtime.Log, tool)
	if err != nil {
		return exitConfig, err
	}
	if err := bridge.Run(obs.Signals(log), cfg, log, nil); err != nil {
		return exitRuntime, err
	}
	return exitOK, nil
}
