package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	maxLine    = 1 << 20
	maxReport  = 8 << 10
	maxWaiting = 10_000 // events that nobody has looked at yet
	stopLimit  = 5 * time.Second
)

// event is what the cases look at.
type event struct {
	ID, Application, Subject, Cursor string
}

// session is a client that runs.
type session struct {
	cmd    *exec.Cmd
	input  io.WriteCloser
	events chan event // closed when the client has ended
	ended  chan struct{}
	err    error // how it ended; read only after ended
	report report
}

// start runs a client. Its standard input stays open until stop: some take its end for
// theirs.
func start(cmd *exec.Cmd) (*session, error) {
	s := &session{cmd: cmd, events: make(chan event, maxWaiting), ended: make(chan struct{})}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = stopLimit
	cmd.Stderr = &s.report
	var err error
	if s.input, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("open standard input: %w", err)
	}
	reader, writer := io.Pipe()
	cmd.Stdout = writer
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	go s.read(reader)
	go func() {
		s.err = cmd.Wait()
		_ = writer.Close() // a pipe in memory
		close(s.ended)
	}()
	return s, nil
}

// read finds the events in what the client prints, on one line or over several, behind a
// prompt or not. Everything else belongs to the report.
func (s *session) read(from io.Reader) {
	defer close(s.events)
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, maxLine)
	var begun string
	for lines.Scan() {
		line := lines.Text()
		if begun == "" {
			if brace := strings.IndexByte(line, '{'); brace >= 0 {
				line = line[brace:]
			} else {
				_, _ = s.report.Write([]byte(line + "\n"))
				continue
			}
		}
		if begun += line; len(begun) > maxLine {
			begun = ""
		}
		var e event
		if json.Unmarshal([]byte(begun), &e) != nil {
			continue // not yet all of it
		}
		begun = ""
		if len(s.events) < cap(s.events) { // this goroutine is the only one that adds
			s.events <- e
		}
	}
	_, _ = s.report.Write([]byte(begun))
	_, _ = io.Copy(io.Discard, from) // what nobody reads would block the client
}

// next waits for an event.
func (s *session) next(ctx context.Context) (event, error) {
	select {
	case e, ok := <-s.events:
		if ok {
			return e, nil
		}
		<-s.ended
		return event{}, fmt.Errorf("the client ended (%w), having said: %s", cause(s.err), s.report.text())
	case <-ctx.Done():
		return event{}, fmt.Errorf("no event came in time; the client said: %s", s.report.text())
	}
}

var errClean = errors.New("exit status 0")

func cause(err error) error {
	if err == nil {
		return errClean
	}
	return err
}

// stop ends the client and what it has started, first kindly: a browser's processes are
// ended by the program that steers it.
func (s *session) stop() {
	_ = s.input.Close() // it may have ended before
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(stopLimit):
	}
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	<-s.ended
}

// report keeps the end of what a client says.
type report struct {
	mu   sync.Mutex
	said []byte
}

// Write never fails.
func (r *report) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, b...)
	if over := len(r.said) - maxReport; over > 0 {
		r.said = r.said[over:]
	}
	return len(b), nil
}

func (r *report) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(strings.Fields(string(r.said)), " ")
}

// command is a client's program with its own additions to the environment, without
// credentials of whoever runs this.
func command(ctx context.Context, environment []string, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "CANOPY_") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, environment...)
	return cmd
}
