package gateway

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestAPanicOfARequestIsLoggedAsAnError(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	server, err := newServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		panic("a mistake of ours")
	}), 32<<10, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	answer, err := http.Get("http://" + listener.Addr().String())
	if err == nil {
		_ = answer.Body.Close()
		t.Fatalf("got %s, want no answer: the handler did not panic", answer.Status)
	}
	_ = server.Close()
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("the server ended with %v", err)
	}
	// net/http logs before it closes the connection, and so before the client knew.
	for _, line := range logs.All() {
		if line.Level == zapcore.ErrorLevel && strings.Contains(line.Message, "a mistake of ours") {
			return
		}
	}
	t.Errorf("no error in the log: %v", logs.All())
}

func TestEveryRequestThatCanBeReadIsAnsweredByTheHandler(t *testing.T) {
	server, err := newServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
	}), 32<<10, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	for _, line := range []string{"OPTIONS * HTTP/1.1", "GET * HTTP/1.1", "CONNECT a:1 HTTP/1.1", "PRI * HTTP/2.0"} {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, line+"\r\nHost: a:1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		answer, err := bufio.NewReader(conn).ReadString('\n')
		if !strings.HasPrefix(answer, "HTTP/1.1 418 ") {
			t.Errorf("%s: got %q, %v, not the handler's answer", line, answer, err)
		}
		_ = conn.Close()
	}
}
