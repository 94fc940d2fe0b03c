package obs

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"canopy/shared/config"
)

const token = "a-token-of-32-characters-exactly"

// start serves a Health on a free port of loopback until the test ends, and gives its base URL.
func start(t *testing.T) (*Health, string) {
	t.Helper()
	return startAs(t, config.Health{BindAddr: "127.0.0.1:0"}, zap.NewNop())
}

func startAs(t *testing.T, cfg config.Health, log *zap.Logger) (*Health, string) {
	t.Helper()
	h := NewHealth(cfg, NewRegistry(), log)
	if h.Addr() != nil {
		t.Errorf("address %v before Listen", h.Addr())
	}
	if err := h.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
	_, port, err := net.SplitHostPort(h.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return h, "http://127.0.0.1:" + port
}

func get(t *testing.T, url string, header ...string) (status int, body string) {
	t.Helper()
	return send(t, http.MethodGet, url, nil, header...)
}

// send makes a request with headers, each as "Name: value"; Host is one of them.
func send(t *testing.T, method, url string, content io.Reader, header ...string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequest(method, url, content)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
		if name == "Host" {
			r.Host = value
		}
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestReadinessFollowsTheSwitchAndEveryCheck(t *testing.T) {
	h, url := start(t)
	var broken atomic.Bool
	h.AddCheck("nats", func() error {
		if broken.Load() {
			return errors.New("not connected")
		}
		return nil
	})
	h.AddCheck("kafka", func() error { return nil })
	for _, c := range []struct {
		name          string
		ready, broken bool
		status        int
		checks        map[string]result
	}{
		{"before the start", false, false, 503, map[string]result{"nats": {Success: true}, "kafka": {Success: true}}},
		{"started", true, false, 200, map[string]result{"nats": {Success: true}, "kafka": {Success: true}}},
		{"one check fails", true, true, 503, map[string]result{"nats": {Error: "not connected"}, "kafka": {Success: true}}},
		{"draining", false, true, 503, map[string]result{"nats": {Error: "not connected"}, "kafka": {Success: true}}},
	} {
		h.SetReady(c.ready)
		broken.Store(c.broken)
		status, body := get(t, url+"/readiness")
		var got result
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatalf("%s: %v in %q", c.name, err, body)
		}
		if status != c.status || got.Success != (c.status == 200) || !reflect.DeepEqual(got.Checks, c.checks) {
			t.Errorf("%s: %d %s", c.name, status, body)
		}
	}
	if status, body := get(t, url+"/liveness"); status != 200 || body != "{\"success\":true}\n" {
		t.Errorf("liveness is %d %q", status, body)
	}
}

func TestMetricsTellBuildRuntimeAndProcess(t *testing.T) {
	_, url := start(t)
	status, body := get(t, url+"/metrics")
	if status != 200 {
		t.Fatalf("status %d", status)
	}
	for _, want := range []string{"canopy_build_info{commit=", "goversion=\"go", "version=", "\ngo_goroutines ", "\nprocess_open_fds "} {
		if !strings.Contains(body, want) {
			t.Errorf("metrics lack %q", want)
		}
	}
}

func TestProfilesAndOwnHandlersAreServed(t *testing.T) {
	h, url := start(t)
	h.HandleDebug("POST /debug/disconnect", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
	}))
	resp, err := http.Post(url+"/debug/disconnect?user=alice", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		t.Errorf("own handler answered %d", resp.StatusCode)
	}
	for path, want := range map[string]int{
		"/debug/pprof/": 200, "/debug/pprof/heap": 200, "/debug/pprof/cmdline": 200, "/debug/pprof/symbol": 200,
		"/debug/pprof/none": 404, "/": 404,
	} {
		if status, _ := get(t, url+path); status != want {
			t.Errorf("%s answered %d, want %d", path, status, want)
		}
	}
}

func TestListenSaysThatAnAddressIsTaken(t *testing.T) {
	h, _ := start(t)
	other := NewHealth(config.Health{BindAddr: h.Addr().String()}, NewRegistry(), zap.NewNop())
	if err := other.Listen(); err == nil || !strings.Contains(err.Error(), h.Addr().String()) {
		t.Errorf("a taken address gave %v", err)
	}
	if err := other.Run(context.Background()); err == nil {
		t.Error("Run without Listen gave no error")
	}
}

func TestRunDoesNotWaitForASlowRequest(t *testing.T) {
	h := NewHealth(config.Health{BindAddr: "127.0.0.1:0"}, NewRegistry(), zap.NewNop())
	entered, release := make(chan struct{}), make(chan struct{})
	h.HandleDebug("GET /debug/slow", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(entered)
		<-release
	}))
	defer close(release)
	if err := h.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	go func() {
		if resp, err := http.Get("http://" + h.Addr().String() + "/debug/slow"); err == nil {
			_ = resp.Body.Close()
		}
	}()
	<-entered
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Run ended with %v", err)
		}
	case <-time.After(stopTimeout + 10*time.Second):
		t.Error("Run waits for a request that does not end")
	}
}
