package ws

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"sync"
	"testing"

	"canopy/edge/internal/certtest"
)

func TestASecondHelloIsAnsweredInATurnOfItsOwn(t *testing.T) {
	for name, c := range map[string]struct {
		client []tls.CurveID
		turns  int // at least: the second one may come in parts
	}{
		"one hello":  {[]tls.CurveID{tls.CurveP384}, 1},
		"two hellos": {[]tls.CurveID{tls.X25519, tls.CurveP384}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = listener.Close() }()
			var mu sync.Mutex
			var got []string
			note := func(what string) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, what)
			}
			config := certtest.Server(t)
			config.CurvePreferences = []tls.CurveID{tls.CurveP384}
			listener = Secure(listener, config, Opening{Turn: func(context.Context) (func(), error) {
				note("turn")
				return func() { note("done") }, nil
			}})
			ended := make(chan error, 1)
			go func() {
				conn, err := net.Dial("tcp", listener.Addr().String())
				if err == nil {
					client := certtest.Client()
					client.CurvePreferences = c.client
					err = tls.Client(conn, client).HandshakeContext(t.Context())
					defer func() { _ = conn.Close() }()
				}
				ended <- err
			}()
			conn, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if err := conn.(*tls.Conn).HandshakeContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			if n := len(got) / 2; n < c.turns || c.turns == 1 && n > 1 || !slices.Equal(got, slices.Repeat([]string{"turn", "done"}, n)) {
				t.Errorf("turns: %v, want %d", got, c.turns)
			}
		})
	}
}
