package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"canopy/edge/client"
	"canopy/shared/config"
)

const help = `Prints the events of an application, one after the other, and comes back by
itself when a connection breaks, without losing or repeating any.

Without --raw or --pretty events are pretty on a terminal and raw elsewhere. What
is no event goes to standard error.

Tokens and keys belong into the environment or into files, since everybody on
this machine can read a program's arguments.

Exit codes: 0 after --count events, or without it when stopped by Ctrl-C or
SIGTERM; 1 the stream ended, or could not be opened within --give-up; 2 wrong
usage; 3 the token or key was refused; 4 there is no such application, or it may
not be read; 130 stopped before --count events.`

// maxSecret bounds what is read of a file with a token or key.
const maxSecret = 1 << 20

// commandLine is kong's grammar.
type commandLine struct {
	Application string `arg:"" env:"CANOPY_APPLICATION" help:"Application whose events to print."`

	Edge    string `env:"CANOPY_EDGE" default:"ws://127.0.0.1:8080" placeholder:"URL" help:"The edge, ws://host:port or wss://host (${default})."`
	Channel string `short:"c" help:"Only events with exactly this subject."`
	Device  string `short:"d" help:"Only events of this device."`
	Group   string `short:"g" help:"Share the events with the other members of this group."`
	Since   string `short:"s" placeholder:"PLACE" help:"Begin behind this cursor, at this time (RFC 3339), or with 'earliest'. From now on otherwise."`
	Count   int    `short:"n" placeholder:"N" help:"Stop after so many events; gap events do not count. 0: never (${default})." default:"0"`

	Token     string `env:"CANOPY_TOKEN" placeholder:"TOKEN" help:"OpenID token."`
	TokenFile string `env:"CANOPY_TOKEN_FILE" placeholder:"FILE" help:"File with an OpenID token, read again when a fresh one is needed; - is standard input, read once."`
	User      string `short:"u" env:"CANOPY_USER" help:"User of the API key."`
	Key       string `env:"CANOPY_KEY" placeholder:"KEY" help:"API key."`
	KeyFile   string `env:"CANOPY_KEY_FILE" placeholder:"FILE" help:"File with the API key; - is standard input."`
	Insecure  bool   `short:"k" help:"Do not verify the edge's certificate. Whoever is in between can read everything."`

	Raw     bool          `xor:"style" help:"Each event as it was received, on a line."`
	Pretty  bool          `xor:"style" help:"Events in several lines, for people; in colours on a terminal, unless NO_COLOR is set."`
	Quiet   bool          `short:"q" help:"Say nothing about connections that break and come back."`
	GiveUp  time.Duration `placeholder:"TIME" default:"0s" help:"End if there is no connection for so long, as in 30s. 0s: never (${default})."`
	Help    helpFlag      `short:"h" help:"Show this text."`
	Version versionFlag   `help:"Show version and commit."`
}

type (
	helpFlag    bool
	versionFlag bool
)

// BeforeReset is called by kong when the flag is given.
func (helpFlag) BeforeReset(ctx *kong.Context) error {
	if err := ctx.PrintUsage(false); err != nil {
		return fmt.Errorf("write help: %w", err)
	}
	return config.ErrDone
}

// BeforeReset is called by kong when the flag is given.
func (versionFlag) BeforeReset(ctx *kong.Context) error {
	version, commit := config.Build()
	if _, err := fmt.Fprintf(ctx.Stdout, "%s %s (commit %s)\n", tool, version, commit); err != nil {
		return fmt.Errorf("write version: %w", err)
	}
	return config.ErrDone
}

// parse reads the arguments and the environment. done says that they asked only to show
// something, which it has done.
func (c *commandLine) parse(args []string, out io.Writer) (done bool, err error) {
	_, err = config.Parse(tool, help, c, args, out)
	if errors.Is(err, config.ErrDone) {
		return true, nil
	}
	return false, err
}

// config is what the command line says to the client.
func (c *commandLine) config(in io.Reader) (client.Config, error) {
	cfg := client.Config{
		Edge: c.Edge, Application: c.Application, Channel: c.Channel, Device: c.Device,
		Group: c.Group, Since: c.Since, User: c.User, GiveUp: c.GiveUp,
	}
	if c.Count < 0 {
		return cfg, errors.New("--count must not be negative")
	}
	if c.Token != "" && c.TokenFile != "" || c.Key != "" && c.KeyFile != "" {
		return cfg, errors.New("give a token or a key as it is or as a file, not both")
	}
	if c.Insecure {
		cfg.TLS = &tls.Config{InsecureSkipVerify: true}
	}
	var err error
	if cfg.APIKey = c.Key; c.KeyFile != "" {
		if cfg.APIKey, err = readSecret(c.KeyFile, in); err != nil {
			return cfg, fmt.Errorf("read key: %w", err)
		}
	}
	cfg.Token, err = c.tokens(in)
	return cfg, err
}

// tokens gives the source of tokens, nil if there is none.
func (c *commandLine) tokens(in io.Reader) (client.TokenSource, error) {
	if c.Token == "" && c.TokenFile == "" {
		return nil, nil
	}
	token := c.Token
	if c.TokenFile != "" {
		var err error
		if token, err = readSecret(c.TokenFile, in); err != nil {
			return nil, fmt.Errorf("read token: %w", err)
		}
	}
	again := c.TokenFile != "" && c.TokenFile != "-"
	return func(context.Context) (string, error) {
		if again {
			return readSecret(c.TokenFile, nil)
		}
		return token, nil
	}, nil
}

// readSecret reads a token or key, without white space around it.
func readSecret(name string, in io.Reader) (string, error) {
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer func() { _ = file.Close() }() // it was only read
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, maxSecret))
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" {
		return "", fmt.Errorf("%s is empty", name)
	}
	return secret, nil
}
