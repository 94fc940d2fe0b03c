// Package child runs parts of a bench as processes of their own, so that what each of
// them costs can be told apart. Parent and child talk in lines of JSON over the child's
// standard input and output; a child ends when its input does, so none outlives a parent
// that was killed.
package child

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// stopGrace is long, because a NATS server with 10,000 consumers takes half a minute to end.
const stopGrace = 2 * time.Minute

// Process is a running child. Its methods may be called from any goroutine; questions
// are put one after the other.
type Process struct {
	name string
	cmd  *exec.Cmd

	mu      sync.Mutex
	stdin   io.WriteCloser
	answers *json.Decoder
}

// envelope is one answer.
type envelope struct {
	Error  string          `json:"error,omitempty"`
	Answer json.RawMessage `json:"answer,omitempty"`
}

// Start runs this same program with args. What it writes to standard error goes to ours.
func Start(args ...string) (*Process, error) { return StartUntil(context.Background(), args...) }

// StartUntil is Start for a process that is killed when ctx ends, whatever it is doing.
func StartUntil(ctx context.Context, args ...string) (*Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	return start(exec.CommandContext(ctx, self, args...), args[0])
}

func start(cmd *exec.Cmd, name string) (*Process, error) {
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return &Process{name: name, cmd: cmd, stdin: stdin, answers: json.NewDecoder(bufio.NewReader(stdout))}, nil
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ask sends question and reads the reply into answer, which may be nil. It waits as long
// as the child takes; the child's own failure is the error.
func (p *Process) Ask(question, answer any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := json.NewEncoder(p.stdin).Encode(question); err != nil {
		return fmt.Errorf("ask %s: %w", p.name, err)
	}
	var reply envelope
	if err := p.answers.Decode(&reply); err != nil {
		return fmt.Errorf("read answer of %s: %w", p.name, err)
	}
	if reply.Error != "" {
		return fmt.Errorf("%s: %s", p.name, reply.Error)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(reply.Answer, answer); err != nil {
		return fmt.Errorf("read answer of %s: %w", p.name, err)
	}
	return nil
}

// Stop ends the child's input and waits for its end; after two minutes it kills it, which
// is an error.
func (p *Process) Stop() error {
	_ = p.stdin.Close() // fails only if it is closed already
	watch := time.AfterFunc(stopGrace, func() { _ = p.cmd.Process.Kill() })
	defer watch.Stop()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	return nil
}

// Serve is the child's side: it reads one question after the other from in, until its
// end, and writes what answer returns to out. A question that answer cannot deal with
// does not end the child.
func Serve[Q any](in io.Reader, out io.Writer, answer func(Q) (any, error)) error {
	questions, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var question Q
		if err := questions.Decode(&question); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read question: %w", err)
		}
		var reply envelope
		result, err := answer(question)
		if err == nil {
			reply.Answer, err = json.Marshal(result)
		}
		if err != nil {
			reply.Error = err.Error()
		}
		if err := answers.Encode(reply); err != nil {
			return fmt.Errorf("write answer: %w", err)
		}
	}
}
