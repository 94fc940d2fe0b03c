package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"canopy/edge/client"
	"canopy/edge/internal/edgetest"
)

// call runs the program and gives its exit code and what it wrote.
func call(ctx context.Context, in string, args ...string) (status int, out, report string) {
	var o, r bytes.Buffer
	status = run(ctx, args, strings.NewReader(in), &o, &r)
	return status, o.String(), r.String()
}

func TestEventsAreCountedAndExitCodesSayHowItEnded(t *testing.T) {
	w := edgetest.Start(t)
	for n := range 4 {
		w.Publish("open-app", "c", n)
		w.Publish("secret-app", "", n)
	}
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	edge := "--edge=ws://" + w.Addr
	for _, c := range []struct {
		name   string
		in     string
		args   []string
		status int
		lines  int    // of standard output
		says   string // on standard error
	}{
		{name: "public", args: []string{"open-app", "--since=earliest", "-n3"}, lines: 3},
		{name: "device and channel", args: []string{"open-app", "-s", "earliest", "-c", "c", "-d", "d1", "-n", "2"}, lines: 2},
		{name: "key file", args: []string{"secret-app", "-s", "earliest", "-n1", "-u", "alice", "--key-file", key}, lines: 1},
		{name: "key on standard input", in: "secret", args: []string{"secret-app", "-s", "earliest", "-n1", "-u", "alice", "--key-file=-"}, lines: 1},
		{name: "token on standard input", in: w.Token("alice", time.Hour), args: []string{"secret-app", "-s", "earliest", "-n1", "--token-file=-"}, lines: 1},
		{name: "wrong key", args: []string{"secret-app", "-u", "alice", "--key=wrong"}, status: exitForbidden, says: "403 Forbidden"},
		{name: "no application", args: []string{"nothing"}, status: exitNotFound, says: "Application / nothing"},
		{name: "bad place", args: []string{"open-app", "-s", "yesterday"}, status: exitUsage, says: "400"},
		{name: "contradiction", args: []string{"open-app", "-s", "earliest", "-g", "g"}, status: exitUsage, says: "group"},
		{name: "empty file", args: []string{"open-app", "--token-file=-"}, status: exitUsage, says: "- is empty"},
		{name: "no edge", args: []string{"open-app", "--edge=ws://127.0.0.1:1", "--give-up=1ms"}, status: exitEnded, says: "127.0.0.1:1"},
		{name: "unknown flag", args: []string{"--what"}, status: exitUsage, says: "--help"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), edgetest.Patience)
			defer cancel()
			status, out, report := call(ctx, c.in, append([]string{edge}, c.args...)...)
			if status != c.status || strings.Count(out, "\n") != c.lines || !strings.Contains(report, c.says) {
				t.Errorf("exit code %d, want %d; printed %q, said %q", status, c.status, out, report)
			}
		})
	}
}

func TestACertificateThatNobodySignedIsTakenWithInsecureAlone(t *testing.T) {
	w := edgetest.Start(t)
	w.Secure()
	w.Publish("secret-app", "", 0)
	stream := func(args ...string) (status int, out, report string) {
		ctx, cancel := context.WithTimeout(context.Background(), edgetest.Patience)
		defer cancel()
		return call(ctx, "", append([]string{"secret-app", "-s", "earliest", "-n1", "-u", "alice", "--key=secret", "--give-up=1ms"}, args...)...)
	}
	signIns := func() float64 {
		return w.Metric(`drogue_client_user_authentication_access_token{outcome="pass"}`)
	}
	status, out, report := stream("--edge=wss://" + w.Addr)
	if status != exitEnded || out != "" || !strings.Contains(report, "certificate") {
		t.Errorf("without --insecure: exit code %d, want %d; printed %q, said %q", status, exitEnded, out, report)
	}
	if n := signIns(); n != 0 {
		t.Errorf("the key was shown %v times to an edge that is not trusted", n)
	}
	for _, edge := range []string{"wss://", "https://"} {
		status, out, report = stream("--insecure", "--edge="+edge+w.Addr)
		if status != exitOK || strings.Count(out, "\n") != 1 {
			t.Errorf("with --insecure: exit code %d, want %d; printed %q, said %q", status, exitOK, out, report)
		}
	}
	if n := signIns(); n != 2 {
		t.Errorf("%v sign-ins with --insecure, want 2", n)
	}
	status, out, report = stream("--insecure", "--edge=ws://"+w.Addr)
	if status == exitOK || out != "" || !strings.Contains(report, "TLS is expected here") {
		t.Errorf("without TLS: exit code %d; printed %q, said %q", status, out, report)
	}
}

func TestAnEdgeIsRestartedUnderIt(t *testing.T) {
	w := edgetest.Start(t)
	w.Publish("open-app", "", 0)
	ctx, cancel := context.WithTimeout(context.Background(), edgetest.Patience)
	defer cancel()
	var out, report guarded
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"open-app", "--edge=http://" + w.Addr, "-s", "earliest", "-n", "3"}, nil, &out, &report)
	}()
	w.Eventually("the first event is printed", func() bool { return strings.Contains(out.String(), `"id":"0"`) })
	w.Stop()
	w.Eventually("the end is told", func() bool { return strings.Contains(report.String(), "closed with 1001 edge is going away; again in") })
	w.Publish("open-app", "", 1)
	w.Up()
	w.Publish("open-app", "", 2)
	if status := <-done; status != exitOK || strings.Count(out.String(), "\n") != 3 || !strings.Contains(report.String(), "connected again") {
		t.Errorf("exit code %d, printed %s, said %s", status, out.String(), report.String())
	}
}

// guarded is a buffer for two goroutines.
type guarded struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (g *guarded) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.Write(b)
}

func (g *guarded) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.String()
}

func TestStoppingIsASuccessOnlyIfNoCountWasAskedFor(t *testing.T) {
	w := edgetest.Start(t)
	for _, c := range []struct {
		args   []string
		status int
	}{{nil, exitOK}, {[]string{"-n1"}, exitInterrupted}} {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan int, 1)
		go func() {
			status, _, _ := call(ctx, "", append([]string{"open-app", "--edge=ws://" + w.Addr}, c.args...)...)
			done <- status
		}()
		w.Eventually("a socket is open", func() bool { return w.Metric(`drogue_connections{protocol="ws",type="integration"}`) == 1 })
		cancel()
		if status := <-done; status != c.status {
			t.Errorf("%v: exit code %d, want %d", c.args, status, c.status)
		}
		// It may have been stopped before it saw the answer, and then says no goodbye.
		w.Eventually("the socket is closed", func() bool { return w.Metric(`drogue_connections{protocol="ws",type="integration"}`) == 0 })
	}
}

func TestATokenFileIsReadAgainForEveryToken(t *testing.T) {
	name := filepath.Join(t.TempDir(), "token")
	cli := commandLine{TokenFile: name}
	if _, err := cli.tokens(nil); err == nil {
		t.Error("a file that is not there passes")
	}
	var source client.TokenSource
	for _, want := range []string{"first", "second"} {
		if err := os.WriteFile(name, []byte(" "+want+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if source == nil {
			var err error
			if source, err = cli.tokens(nil); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := source(context.Background()); got != want || err != nil {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}

func TestTheEnvironmentStandsInForArguments(t *testing.T) {
	for name, value := range map[string]string{"CANOPY_APPLICATION": "app", "CANOPY_EDGE": "wss://h", "CANOPY_USER": "u", "CANOPY_KEY": "k"} {
		t.Setenv(name, value)
	}
	var cli commandLine
	if done, err := cli.parse(nil, nil); done || err != nil {
		t.Fatal(done, err)
	}
	cfg, err := cli.config(nil)
	if err != nil || cfg.Application != "app" || cfg.Edge != "wss://h" || cfg.User != "u" || cfg.APIKey != "k" {
		t.Errorf("got %+v, %v", cfg, err)
	}
}

func TestHelpAndVersionAreAnswered(t *testing.T) {
	for arg, want := range map[string]string{"--help": "Exit codes:", "--version": "canopy-stream dev (commit "} {
		if status, out, report := call(context.Background(), "", arg); status != exitOK || !strings.Contains(out, want) || report != "" {
			t.Errorf("%s: exit code %d, %q, %q", arg, status, out, report)
		}
	}
}

func TestPrettyEventsCannotSteerTheTerminal(t *testing.T) {
	for _, c := range []struct {
		event client.Event
		want  string
	}{
		{client.Event{Device: "d", Sender: "s", Subject: "c", Type: "io.drogue.event.v1", ContentType: "application/json", Cursor: "1-2",
			Data: []byte(`{"n":[1,20000000000000000001]}`)},
			"d by s c event.v1 application/json\n  {\n    \"n\": [\n      1,\n      20000000000000000001\n    ]\n  }\n  1-2\n"},
		{client.Event{Device: "\x1b[2J", Data: []byte(`"a\nb\u001b[0m"`), Cursor: "c"}, "\\x1b[2J   \n  a\n  b\\x1b[0m\n  c\n"},
		// JSON may hold every character above the space as it is, those of terminals too.
		{client.Event{Device: "d", Data: []byte("{\"\u009b2J\":\"\u007f\u202e\U000e0001\xc3\xa9\u65e5 \x9b\"}"), Cursor: "c"},
			"d   \n  {\n    \"\\u009b2J\": \"\\u007f\\u202e\\udb40\\udc01\u00e9\u65e5 \\ufffd\"\n  }\n  c\n"},
		{client.Event{Device: "d", Binary: true, Data: []byte{0, 1, 2}, Cursor: "c"}, "d   \n  (3 bytes)\n  c\n"},
		{client.Event{Cursor: "c", Gap: &client.Gap{Message: "m", After: "a", Before: "b"}}, "events may be missing: m\n  behind a, before b\n"},
	} {
		var out bytes.Buffer
		if err := newPrinter(&out, true, false).print(c.event); err != nil || out.String() != c.want {
			t.Errorf("printed %q, %v, want %q", out.String(), err, c.want)
		}
	}
	var out bytes.Buffer
	if err := newPrinter(&out, true, true).print(client.Event{Device: "d"}); err != nil || !strings.Contains(out.String(), bold+"d"+plain) {
		t.Errorf("printed %q, %v", out.String(), err)
	}
	if cli := new(commandLine); cli.style(&out) || cli.colours(&out) {
		t.Error("a pipe gets what is for people")
	}
}
