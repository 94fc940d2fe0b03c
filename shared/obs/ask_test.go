package obs

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"canopy/shared/config"
)

func TestAskTellsHowTheServerIs(t *testing.T) {
	for _, bind := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::]:0", ":0", "localhost:0"} {
		h, _ := startAs(t, config.Health{BindAddr: bind}, zap.NewNop())
		host, _, _ := net.SplitHostPort(bind)
		_, port, _ := net.SplitHostPort(h.Addr().String())
		addr := net.JoinHostPort(host, port)
		try := func(a Ask, wantOut, wantErr string) {
			t.Helper()
			var out bytes.Buffer
			a.Timeout = 10 * time.Second
			err := a.Do(addr, &out)
			if out.String() != wantOut || (err == nil) != (wantErr == "") || err != nil && err.Error() != wantErr {
				t.Errorf("%s: printed %q, %v; want %q, %q", bind, out.String(), err, wantOut, wantErr)
			}
		}
		try(Ask{}, "", "not ready: not started yet, or draining")
		try(Ask{Liveness: true}, "alive\n", "")
		h.SetReady(true)
		try(Ask{}, "ready\n", "")
		h.AddCheck("nats", func() error { return errors.New("not connected") })
		h.AddCheck("kafka", func() error { return nil })
		h.AddCheck("streams", func() error { return errors.New("none") })
		try(Ask{}, "", "not ready: nats: not connected; streams: none")
		try(Ask{Liveness: true}, "alive\n", "")
	}
}

func TestAskGivesUp(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = free.Close()
	for addr, want := range map[string]string{
		silent.Addr().String(): "deadline exceeded", free.Addr().String(): "refused", "127.0.0.1:0": "any port", "x": "missing port",
	} {
		var out bytes.Buffer
		err := Ask{Timeout: 100 * time.Millisecond}.Do(addr, &out)
		if err == nil || !strings.Contains(err.Error(), want) || out.Len() > 0 {
			t.Errorf("%s: printed %q, %v; want %s", addr, out.String(), err, want)
		}
	}
}
