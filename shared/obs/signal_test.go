package obs

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/zap"
)

// childVariable makes the test's binary a daemon that drains for ever.
const childVariable = "CANOPY_TEST_DAEMON"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) == "" {
		os.Exit(m.Run())
	}
	ctx := Signals(zap.NewNop())
	fmt.Println("started")
	<-ctx.Done()
	fmt.Println("draining")
	select {}
}

func TestFirstSignalDrainsAndSecondEndsWithOne(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		daemon := exec.Command(os.Args[0])
		daemon.Env = append(os.Environ(), childVariable+"=1")
		out, err := daemon.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := daemon.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		for _, want := range []string{"started", "draining"} {
			if line, err := lines.ReadString('\n'); err != nil || strings.TrimSpace(line) != want {
				t.Errorf("after %v the daemon says %q, %v; want %q", signal, line, err, want)
			}
			if err := daemon.Process.Signal(signal); err != nil {
				t.Error(err)
			}
		}
		err = daemon.Wait()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
			t.Errorf("after two of %v the daemon ended with %v, want status 1", signal, err)
		}
	}
}
