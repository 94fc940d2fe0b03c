package ws

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ask is a request with the given lines behind the good ones; a line "-Name" takes a
// header away.
func ask(t *testing.T, first string, lines ...string) *http.Request {
	t.Helper()
	headers := []string{
		"Host: h", "Connection: keep-alive, Upgrade", "Upgrade: WebSocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	}
	text := first + "\r\n"
	for _, header := range headers {
		name, _, _ := strings.Cut(header, ":")
		gone := false
		for _, line := range lines {
			gone = gone || line == "-"+name
		}
		if !gone {
			text += header + "\r\n"
		}
	}
	for _, line := range lines {
		if !strings.HasPrefix(line, "-") {
			text += line + "\r\n"
		}
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text + "\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestUpgradeRequestsAreCheckedAndToldWhatIsWrong(t *testing.T) {
	const get = "GET /app HTTP/1.1"
	for _, c := range []struct {
		name, first string
		lines       []string
		want        string
	}{
		{"good", get, nil, ""},
		{"lists in several lines", get, []string{"-Connection", "Connection: keep-alive", "Connection: x, UPGRADE"}, ""},
		{"method", "POST /app HTTP/1.1", nil, "GET"},
		{"HTTP/1.0", "GET /app HTTP/1.0", nil, "HTTP/1.1"},
		{"no Connection", get, []string{"-Connection"}, "Connection"},
		{"Connection without the token", get, []string{"-Connection", "Connection: upgraded"}, "Connection"},
		{"no Upgrade", get, []string{"-Upgrade"}, "Upgrade"},
		{"another Upgrade", get, []string{"-Upgrade", "Upgrade: h2c"}, "Upgrade"},
		{"no version", get, []string{"-Sec-WebSocket-Version"}, "Version"},
		{"version 8", get, []string{"-Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"}, "Version"},
		{"no key", get, []string{"-Sec-WebSocket-Key"}, "Key"},
		{"two keys", get, []string{"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}, "Key"},
		{"short key", get, []string{"-Sec-WebSocket-Key", "Sec-WebSocket-Key: c2hvcnQ="}, "Key"},
		{"key is not base64", get, []string{"-Sec-WebSocket-Key", "Sec-WebSocket-Key: !!!!"}, "Key"},
		{"body", get, []string{"Content-Length: 3"}, "body"},
		{"chunked body", get, []string{"Transfer-Encoding: chunked"}, "body"},
	} {
		err := CheckUpgrade(ask(t, c.first, c.lines...))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestSubprotocolsAreFoundInTheirList(t *testing.T) {
	r := ask(t, "GET / HTTP/1.1", "Sec-WebSocket-Protocol: a, cloudevents.json", "Sec-WebSocket-Protocol: b")
	for name, want := range map[string]bool{"a": true, "b": true, "cloudevents.json": true, "CloudEvents.json": false, "c": false, "cloudevents": false} {
		if OffersSubprotocol(r, name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}

func TestAcceptAnswersTheKeyOfTheStandard(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, early, err := Accept(w, r, "cloudevents.json", Offer{})
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = conn.Write(early)
	}))
	defer web.Close()
	conn, err := net.Dial("tcp", web.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, handshake+"early"); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	before, rest, dated := strings.Cut(string(got), "\r\nDate: ")
	date, behind, _ := strings.Cut(rest, "\r\n")
	want := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: cloudevents.json\r\n\r\nearly"
	if err != nil || !dated || before+"\r\n"+behind != want {
		t.Errorf("got %q, error %v", got, err)
	}
	if at, err := http.ParseTime(date); err != nil || time.Since(at) > patience || time.Until(at) > 0 {
		t.Errorf("the date is %q, %v", date, err)
	}
}

func TestAcceptLeavesTheAnswerToTheCallerIfItCannotTakeTheConnection(t *testing.T) {
	w := httptest.NewRecorder()
	if _, _, err := Accept(w, ask(t, "GET / HTTP/1.1"), "", Offer{}); err == nil {
		t.Error("a recorder was hijacked")
	}
	http.Error(w, "cannot", http.StatusInternalServerError)
	if w.Code != http.StatusInternalServerError {
		t.Errorf("status %d", w.Code)
	}
}

func TestServersDeadlinesDoNotOutliveTheHandshake(t *testing.T) {
	served := &memoryConn{in: bytes.NewReader(nil), deadline: time.Now()}
	w := &hijacked{httptest.NewRecorder(), served}
	if _, _, err := Accept(w, ask(t, "GET / HTTP/1.1"), "", Offer{}); err != nil {
		t.Fatal(err)
	}
	if !served.deadline.IsZero() {
		t.Errorf("deadline %v", served.deadline)
	}
	if until := time.Until(served.writtenBy); until <= 0 || until > acceptTimeout {
		t.Errorf("the 101 may take %v", until)
	}
}

// option reads a socket's option.
func option(t *testing.T, fd, level, name int) int {
	t.Helper()
	v, err := syscall.GetsockoptInt(fd, level, name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAcceptedSocketsKeepTheirOptionsOnThePoller(t *testing.T) {
	s := serve(t, Config{}, nil)
	dialRaw(t, s.addr, nil)
	fd := s.next(t).nb.Load().Hash()
	// The kernel doubles what it is asked for, to account for its own overhead.
	if got := option(t, fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF); got != 2*sendBuffer {
		t.Errorf("send buffer %d", got)
	}
	if got := option(t, fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY); got != 1 {
		t.Errorf("no delay: %d", got)
	}
	if got := option(t, fd, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE); got != 0 {
		t.Errorf("keep-alive: %d", got)
	}
	if got := option(t, fd, syscall.SOL_SOCKET, syscall.SO_PROTOCOL); got != syscall.IPPROTO_TCP {
		t.Errorf("protocol %d", got)
	}
	flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFL, 0)
	if errno != 0 || flags&syscall.O_NONBLOCK == 0 {
		t.Errorf("flags %x, error %v: the socket blocks", flags, errno)
	}
}

func TestListenSaysWhichAddressItCannotHave(t *testing.T) {
	_, err := Listen(context.Background(), "127.0.0.1:no")
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:no") {
		t.Errorf("error %v", err)
	}
}
