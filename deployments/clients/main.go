// Command clients tries real clients against the built local stack: it installs them by
// their package names, lets each do what the README says that it can, and prints a table. It
// fails if anything fails or is absent.
//
//	make build && go run ./deployments/clients [-clients websocat,drg]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sync/errgroup"

	"canopy/deployments/launch"
)

const (
	user = "alice"

	// installers and trials are how many run side by side. Most installers wait for the
	// network; cargo takes what cores there are.
	installers = 7
	trials     = 4
)

func main() {
	chosen := flag.String("clients", "", "names of clients, separated by commas; all of them otherwise")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed, err := run(ctx, *chosen)
	if err != nil {
		fmt.Fprintf(os.Stderr, "clients: %v\n", err)
	}
	if err != nil || failed > 0 {
		os.Exit(1)
	}
}

// run installs, tries and prints, and gives the number of failures.
func run(ctx context.Context, chosen string) (failed int, err error) {
	some, err := choose(chosen)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	absent := installAll(ctx, some)
	fmt.Printf("clients: installed within %v\n", time.Since(began).Round(time.Second))
	began = time.Now()
	rows := make([]row, len(some))
	err = inWorld(ctx, func(ctx context.Context, w *world) error {
		var all errgroup.Group
		all.SetLimit(trials)
		for i, c := range some {
			rows[i] = row{client: c, absent: absent[c.name], errs: make([]error, len(cases))}
			if rows[i].absent == nil {
				all.Go(func() error { return w.try(ctx, &rows[i]) })
			}
		}
		return all.Wait()
	})
	if err != nil {
		return 0, err
	}
	fmt.Printf("clients: tried within %v\n\n", time.Since(began).Round(time.Second))
	return printTable(os.Stdout, rows), nil
}

// choose finds clients by name.
func choose(names string) ([]client, error) {
	if names == "" {
		return clients, nil
	}
	var some []client
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(clients, func(c client) bool { return c.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no client %q", name)
		}
		some = append(some, clients[i])
	}
	return some, nil
}

// installAll installs what these clients need, side by side, and says which of them cannot
// be tried and why.
func installAll(ctx context.Context, some []client) map[string]error {
	errs := make([]error, len(parts))
	var all errgroup.Group
	all.SetLimit(installers)
	for i, p := range parts {
		if slices.ContainsFunc(some, func(c client) bool { return slices.Contains(c.needs, p.name) }) {
			all.Go(func() error {
				began := time.Now()
				errs[i] = p.install(ctx)
				fmt.Printf("clients: %s: %s after %v\n", p.name, okOr(errs[i]), time.Since(began).Round(100*time.Millisecond))
				return nil
			})
		}
	}
	_ = all.Wait() // errors belong to the parts
	absent := make(map[string]error)
	for _, c := range some {
		for i, p := range parts {
			if errs[i] != nil && slices.Contains(c.needs, p.name) {
				absent[c.name] = fmt.Errorf("install %s: %w", p.name, errs[i])
			}
		}
	}
	return absent
}

func okOr(err error) string {
	if err != nil {
		return "FAILED"
	}
	return "ok"
}

// world is what surrounds the clients.
type world struct {
	stack *launch.Stack
	site  *site
	feed  *feed
	key   string // alice's
}

// inWorld runs do between the start of the stack and its end.
func inWorld(ctx context.Context, do func(context.Context, *world) error) (err error) {
	w := &world{feed: new(feed)}
	if w.stack, err = launch.Local(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.stack.Stop()) }()
	for _, line := range w.stack.Printed {
		if words := strings.Fields(line); len(words) == 3 && words[0] == "API" {
			_, w.key, _ = strings.Cut(words[2], ":")
		}
	}
	if w.key == "" {
		return errors.New("the stack printed no API key")
	}
	if w.site, err = newSite(w.stack.Issuer); err != nil {
		return err
	}
	defer w.site.close()
	// The feed lives on when Ctrl-C ends the trials, until they are over.
	all, ctx := errgroup.WithContext(ctx)
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	all.Go(func() error { return w.feed.run(sending, w.stack.Kafka) })
	all.Go(func() error {
		defer stop()
		if err := w.control(ctx); err != nil {
			return fmt.Errorf("control: %w", err)
		}
		return do(ctx, w)
	})
	return all.Wait()
}

// control shows that a socket whose token is not refreshed is closed: without that, the
// clients that outlive their token would show nothing.
func (w *world) control(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, caseLimit)
	defer cancel()
	token, err := w.site.token(ctx, 2*time.Second)
	if err != nil {
		return err
	}
	conn, _, err := websocket.Dial(ctx, "ws://"+w.stack.Edge+"/"+privateApplication+"?token="+token, nil)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer func() { _ = conn.CloseNow() }() // it is closed
	for err == nil {
		_, _, err = conn.Read(ctx)
	}
	if websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		return fmt.Errorf("want a close with 1008 when the token ends: %w", err)
	}
	return nil
}

// try lets a client do all cases, one after the other.
func (w *world) try(ctx context.Context, r *row) error {
	folder, err := os.MkdirTemp("", "canopy-clients-")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	defer func() { _ = os.RemoveAll(folder) }() // it is temporary
	for i, c := range cases {
		if r.client.cannot[c.name] != "" {
			continue
		}
		own := filepath.Join(folder, strconv.Itoa(i))
		if err := os.Mkdir(own, 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
		limited, cancel := context.WithTimeout(ctx, caseLimit)
		began := time.Now()
		r.errs[i] = c.try(limited, trial{world: w, client: r.client, folder: own})
		cancel()
		fmt.Printf("clients: %s, %s: %s after %v\n", r.client.name, c.name, okOr(r.errs[i]), time.Since(began).Round(10*time.Millisecond))
	}
	return nil
}
