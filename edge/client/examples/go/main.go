// Command go prints the events of an application, and comes back by itself where it was when
// the connection breaks.
//
//	go run ./edge/client/examples/go -application drogue-public-temperature
//
// It signs in with the API key in CANOPY_USER and CANOPY_KEY, or with the OpenID token in the
// file that CANOPY_TOKEN_FILE names. Somebody else keeps a fresh token there; it is read
// again before each connection and before the token expires.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"canopy/edge/client"
)

func main() {
	cfg := client.Config{
		User:   os.Getenv("CANOPY_USER"),
		APIKey: os.Getenv("CANOPY_KEY"),
		OnOpen: func() { log.Print("connected") },
		OnWait: func(err error, delay time.Duration) {
			log.Printf("%v; again in %v", err, delay.Round(time.Millisecond))
		},
	}
	if file := os.Getenv("CANOPY_TOKEN_FILE"); file != "" {
		cfg.Token = func(context.Context) (string, error) {
			token, err := os.ReadFile(file)
			return strings.TrimSpace(string(token)), err
		}
	}
	flag.StringVar(&cfg.Edge, "edge", "ws://127.0.0.1:8080", "the edge, ws://host:port or wss://host")
	flag.StringVar(&cfg.Application, "application", "drogue-public-temperature", "whose events")
	flag.StringVar(&cfg.Channel, "channel", "", "only events with this subject")
	flag.StringVar(&cfg.Group, "group", "", "share the events with the other members of this group")
	flag.StringVar(&cfg.Since, "since", "", "begin behind this cursor, at this time, or with 'earliest'")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := receive(ctx, cfg); err != nil {
		log.Fatal(err)
	}
}

// receive prints events until ctx ends, or until the edge says that coming back is of no use.
func receive(ctx context.Context, cfg client.Config) error {
	for event, err := range client.Events(ctx, cfg) {
		var refused *client.RefusedError
		switch {
		case errors.As(err, &refused):
			return fmt.Errorf("the edge answered %d: %w", refused.Status, err)
		case err != nil:
			return err
		case event.Gap != nil:
			log.Printf("events may be missing: %s", event.Gap.Message)
		default:
			// The client resumes behind an event for which this body has come to its end.
			fmt.Printf("%s\n", event.JSON)
		}
	}
	return nil
}
