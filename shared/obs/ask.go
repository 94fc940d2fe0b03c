package obs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const maxAnswer = 64 << 10 // bytes of a probe's answer

// Ask is the command of a daemon that asks another process of it, which runs here with the
// same settings, how it is: for containers without a shell, whose health checks can only
// start the daemon's own program.
type Ask struct {
	Liveness bool          `help:"Ask /liveness, whether it runs, instead of /readiness."`
	Timeout  time.Duration `default:"3s" help:"For how long to wait for the answer."`
}

// Do asks the health server that binds addr. It says to out that all is well; its error says
// what is not.
func (a Ask) Do(addr string, out io.Writer) error {
	path, word := readinessPath, "ready"
	if a.Liveness {
		path, word = livenessPath, "alive"
	}
	ctx, cancel := context.WithTimeout(context.Background(), a.Timeout)
	defer cancel()
	if err := ask(ctx, addr, path); err != nil {
		return fmt.Errorf("not %s: %w", word, err)
	}
	if _, err := fmt.Fprintln(out, word); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

func ask(ctx context.Context, addr, path string) error {
	target, err := reachable(addr)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+target+path, nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", target, err)
	}
	request.Host = "localhost" // whatever name the address is configured by
	// Nothing between the two: the environment may name a proxy.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return err // names method, address and cause
	}
	defer func() { _ = response.Body.Close() }()
	var got result
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&got); err != nil {
		return fmt.Errorf("%s%s answered %d, and no JSON: %w", target, path, response.StatusCode, err)
	}
	if response.StatusCode != http.StatusOK || !got.Success {
		return got.failure(response.StatusCode)
	}
	return nil
}

// failure tells what is wrong in one line.
func (r result) failure(status int) error {
	var parts []string
	if r.Error != "" {
		parts = append(parts, r.Error)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Checks)) {
		if check := r.Checks[name]; !check.Success {
			parts = append(parts, name+": "+check.Error)
		}
	}
	if len(parts) == 0 {
		return fmt.Errorf("it answered %d", status)
	}
	return errors.New(strings.Join(parts, "; "))
}

// reachable is where a server that binds addr is asked from the same machine.
func reachable(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("read health address: %w", err)
	}
	if port == "0" {
		return "", fmt.Errorf("health address %s means any port: nobody knows which", addr)
	}
	// What is bound to all addresses takes IPv4, too, whichever family it is written in.
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}
