//go:build linux

package under

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	servicePatience = 30 * time.Second
	logTail         = 2 << 10
)

// Profiles is a folder that the programs' processor profiles go into, one for each second
// and process; empty means none. go tool pprof takes many of them at once.
var Profiles string

// service is a running program of Canopy's, which has a health server.
type service struct {
	name   string
	cmd    *exec.Cmd
	health string
	log    string
	ended  chan struct{}
	result error // of the process, once ended is closed
}

// startService starts program and returns when it is ready. Its log is nams.log in dir.
func startService(ctx context.Context, name, program, dir, health string, env []string) (*service, error) {
	s := &service{
		name: name, cmd: exec.Command(program), health: health,
		log: filepath.Join(dir, name+".log"), ended: make(chan struct{}),
	}
	log, err := os.Create(s.log)
	if err != nil {
		return nil, fmt.Errorf("make log of %s: %w", name, err)
	}
	defer func() { _ = log.Close() }() // the process has its own descriptor
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "RUNTIME__HEALTH__BIND_ADDR=" + health,
	}, env...)
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		s.result = s.cmd.Wait()
		close(s.ended)
	}()
	if err := s.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	if Profiles != "" {
		go s.profile(Profiles)
	}
	return s, nil
}

// profile writes profiles into a folder until the program ends.
func (s *service) profile(dir string) {
	for i := 1; ; i++ {
		p, err := s.get(context.Background(), "/debug/pprof/profile?seconds=1")
		if err != nil {
			return // it ends
		}
		name := filepath.Join(dir, fmt.Sprintf("%s-%d-%d.pprof", s.name, s.PID(), i))
		if err := os.WriteFile(name, p, 0o600); err != nil {
			fmt.Fprintln(os.Stderr, "write profile:", err)
			return
		}
	}
}

// freeAddrs gives n addresses of 127.0.0.1 that nobody listens at.
func freeAddrs(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer func() { _ = l.Close() }() // together, so that no port comes twice
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

func (s *service) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, servicePatience)
	defer cancel()
	for {
		_, err := s.get(ctx, "/readiness")
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("start %s: it ended: %w\n%s", s.name, s.result, s.tail())
		case <-ctx.Done():
			return fmt.Errorf("start %s: not ready: %w\n%s", s.name, err, s.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *service) tail() []byte {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return []byte(err.Error())
	}
	return b[max(0, len(b)-logTail):]
}

func (s *service) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.health+path, nil)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %.200s", resp.StatusCode, body)
	}
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	return body, nil
}

// PID is the process's number.
func (s *service) PID() int { return s.cmd.Process.Pid }

// Stop lets the program drain. After 30 seconds it kills it, which is an error.
func (s *service) Stop() error {
	_ = s.cmd.Process.Signal(unix.SIGTERM) // fails only if it has ended
	watch := time.AfterFunc(servicePatience, func() { _ = s.cmd.Process.Kill() })
	defer watch.Stop()
	<-s.ended
	if s.result != nil {
		return fmt.Errorf("stop %s: %w\n%s", s.name, s.result, s.tail())
	}
	return nil
}
