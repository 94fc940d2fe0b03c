package gateway

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"canopy/shared/natstest"
)

func TestAnEdgeWithoutDescriptorsForSocketsSaysSoAtItsStart(t *testing.T) {
	file := t.TempDir() + "/applications.yaml"
	if err := os.WriteFile(file, []byte(applications), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `ulimit -n 512 && exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"=1", "NATS__URL="+natstest.Start(t).URL(),
		"EDGE__APPLICATIONS_FILE="+file, "HTTP__BIND_ADDR=127.0.0.1:0", "RUNTIME__HEALTH__BIND_ADDR=127.0.0.1:0")
	in, err := cmd.StdinPipe() // whose end would end an edge that did start
	if err != nil {
		t.Fatal(err)
	}
	end := time.AfterFunc(patience, func() { _ = in.Close() })
	defer end.Stop()
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "512 open files are allowed") {
		t.Errorf("ended with %v, %s; want an error that tells of the files", err, out)
	}
}
