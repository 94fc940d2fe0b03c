package gateway

import (
	"net"
	"os"
	"strconv"
	"testing"
)

// setting is the size of a test: usual, or what the environment says.
func setting(t *testing.T, name string, usual int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s: expected a number", name, text)
	}
	return n
}

func listenAnywhere() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }
