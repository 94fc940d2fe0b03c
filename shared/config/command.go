package config

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"
)

// ErrDone is returned when the command line asked only for --help or --version, which
// has been answered: the program ends with success.
var ErrDone = errors.New("the command line is answered")

// Flags are what the command line of every daemon has. A daemon with more to say embeds
// them in a grammar of its own for Parse.
type Flags struct {
	Config  string      `placeholder:"FILE" help:"YAML file with the settings below; the environment wins."`
	Help    helpFlag    `short:"h" help:"Show this text and every setting."`
	Version versionFlag `help:"Show version and commit."`
}

type (
	helpFlag    bool
	versionFlag bool
)

// BeforeReset is called by kong when the flag is given.
func (helpFlag) BeforeReset(ctx *kong.Context) error {
	shown := *ctx
	chosen := ctx.Selected()
	other := chosen != nil && chosen != ctx.Model.DefaultCmd
	if !other {
		// kong takes the default command for chosen, and would then not list the others.
		shown.Path = ctx.Path[:1]
	}
	if err := shown.PrintUsage(false); err != nil {
		return fmt.Errorf("write help: %w", err)
	}
	if other {
		return ErrDone // it takes no settings
	}
	if err := writeHelp(ctx.Stdout); err != nil {
		return fmt.Errorf("write help: %w", err)
	}
	return ErrDone
}

// BeforeReset is called by kong when the flag is given.
func (versionFlag) BeforeReset(ctx *kong.Context) error {
	version, commit := Build()
	if _, err := fmt.Fprintf(ctx.Stdout, "%s %s (commit %s)\n", ctx.Model.Name, version, commit); err != nil {
		return fmt.Errorf("write version: %w", err)
	}
	return ErrDone
}

// Parse reads args into grammar, a pointer to Flags or to a struct that embeds them, and
// gives the chosen command, "" if the grammar has none. help says in a sentence what the
// program tool does. What the command line asks to show goes to out, and the error is
// ErrDone then; any other error is a mistake in args.
func Parse(tool, help string, grammar any, args []string, out io.Writer) (command string, err error) {
	parser, err := kong.New(grammar,
		kong.Name(tool), kong.Description(help), kong.NoDefaultHelp(), kong.Writers(out, out),
		kong.ConfigureHelp(kong.HelpOptions{WrapUpperBound: helpWidth}))
	if err != nil {
		return "", fmt.Errorf("build command line: %w", err)
	}
	ctx, err := parser.Parse(args)
	if errors.Is(err, ErrDone) {
		return "", ErrDone
	}
	if err != nil {
		return "", fmt.Errorf("command line: %w (see %s --help)", err, tool)
	}
	return ctx.Command(), nil
}

// Load reads the command line of a daemon that has no grammar of its own, without the
// program's name, and then the configuration by Read. Its error is ErrDone after --help
// and --version, which are answered on standard output.
func Load(tool string, args, environ []string) (Config, error) {
	var flags Flags
	if _, err := Parse(tool, "", &flags, args, os.Stdout); err != nil {
		return Config{}, err
	}
	return Read(flags.Config, environ)
}
