//go:build linux

package e2e

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// watchedWhile runs bad with a load on sockets of the application "good", which must not
// notice it.
func watchedWhile(t *testing.T, bad func(w *world), environ ...string) {
	w := start(t, setup{public: map[string]int32{"good": 1}}, environ...)
	healthy := w.fleet("good", "", 20)
	load := w.startLoad(200, 0, source{"good", 0, ""})
	eventually(t, "events arrive", func() bool { return had(healthy) > 50 })
	bad(w)
	before := had(healthy)
	eventually(t, "events go on", func() bool { return had(healthy) > before+50 })
	s := expectAll(t, "healthy sockets", healthy, load.stop())
	expectCalm(t, "healthy sockets", s)
	w.expectNATSUndisturbed()
}

func TestBadRequestsAreRefusedWithAReasonAndDisturbNobody(t *testing.T) {
	long := strings.Repeat("x", 10<<10)
	upgrade := func(line string) string { return line + "\r\n" + upgradeHeaders + "\r\n" }
	without := func(header string) string {
		var kept []string
		for line := range strings.Lines(upgradeHeaders) {
			if !strings.HasPrefix(line, header+":") {
				kept = append(kept, line)
			}
		}
		return "GET /good HTTP/1.1\r\n" + strings.Join(kept, "") + "\r\n"
	}
	watchedWhile(t, func(w *world) {
		good := w.path("good", "")
		for _, c := range []struct{ name, request, want string }{
			{"unknown application", upgrade("GET /nobody HTTP/1.1"), `404 {"error":"NotFound","message":"Resource not found: Application / nobody"}`},
			{"a dot", upgrade("GET /. HTTP/1.1"), `404 {"error":"NotFound","message":"Resource not found: Application / ."}`},
			{"one wildcard", upgrade("GET /* HTTP/1.1"), `404 {"error":"NotFound","message":"Resource not found: Application / *"}`},
			{"a wildcard for the rest", upgrade("GET /%3E HTTP/1.1"), `404 {"error":"NotFound","message":"Resource not found: Application / \u003e"}`},
			{"a subject", upgrade("GET /events.0.%3E HTTP/1.1"), `404 {"error":"NotFound"`},
			{"a space", upgrade("GET /%20 HTTP/1.1"), `404 {"error":"NotFound","message":"Resource not found: Application /  "}`},
			{"CR LF", upgrade("GET /a%0D%0Ab HTTP/1.1"), `404 {"error":"NotFound","message":"Resource not found: Application / a\r\nb"}`},
			{"NUL", upgrade("GET /%00 HTTP/1.1"), `404 {"error":"NotFound","message":"Resource not found: Application / \u0000"}`},
			{"no UTF-8", upgrade("GET /%FF HTTP/1.1"), `404 {"error":"NotFound","message":"Resource not found: Application / ` + "\ufffd" + `"}`},
			{"10 KB", upgrade("GET /" + long + " HTTP/1.1"), `404 {"error":"NotFound","message":"Resource not found: Application / ` + long[:256] + `"}`},
			{"no name", upgrade("GET / HTTP/1.1"), `404 {"error":"NotFound"`},
			{"too many segments", upgrade("GET " + good + "/a/b HTTP/1.1"), `404 {"error":"NotFound"`},
			{"a path of our own", upgrade("GET /-/metrics HTTP/1.1"), `404 {"error":"NotFound"`},
			{"bad encoding", upgrade("GET /%zz HTTP/1.1"), `400 `},
			{"cut encoding", upgrade("GET " + good + "%2 HTTP/1.1"), `400 `},
			{"bad encoding in the query", upgrade("GET " + good + "?token=%zz HTTP/1.1"), `400 {"error":"BadRequest"`},
			{"a space as it is", upgrade("GET /a b HTTP/1.1"), `400 `},
			{"NUL as it is", upgrade("GET /a\x00b HTTP/1.1"), `400 `},
			{"CR LF as it is", "GET /a\r\nb HTTP/1.1\r\n\r\n", `400 `},
			{"no Connection", without("Connection"), `400 {"error":"BadRequest","message":"header Connection must contain Upgrade"}`},
			{"no Upgrade", without("Upgrade"), `400 {"error":"BadRequest","message":"header Upgrade must contain websocket"}`},
			{"no version", without("Sec-WebSocket-Version"), `400 {"error":"BadRequest","message":"header Sec-WebSocket-Version must be 13"}`},
			{"no key", without("Sec-WebSocket-Key"), `400 {"error":"BadRequest","message":"header Sec-WebSocket-Key must be given once, 16 bytes in base64"}`},
			{"no host", without("Host"), `400 `},
			{"another method", upgrade("POST " + good + " HTTP/1.1"), `400 {"error":"BadRequest","message":"method must be GET"}`},
			{"an old protocol", upgrade("GET " + good + " HTTP/1.0"), `400 {"error":"BadRequest","message":"protocol must be HTTP/1.1"}`},
			{"a body", "GET " + good + " HTTP/1.1\r\n" + upgradeHeaders + "Content-Length: 2\r\n\r\n\x81\x80", `400 {"error":"BadRequest","message":"request must have no body"}`},
			{"large headers", "GET " + good + " HTTP/1.1\r\n" + upgradeHeaders + "X: " + strings.Repeat(long, 4) + "\r\n\r\n", `431 `},
			{"an undecodable header", "GET " + good + " HTTP/1.1\r\n" + upgradeHeaders + "Authorization: Basic !\r\n\r\n", `403 {"error":"Forbidden","message":"Invalid request: `},
			{"TLS", "\x16\x03\x01\x00\x05hello\r\n\r\n", `400 `},
		} {
			if got := w.shout(c.request); !strings.HasPrefix(got, c.want) {
				t.Errorf("%s: got %.400s, want %.400s", c.name, got, c.want)
			}
		}
	})
}

func TestFramesThatBreakTheProtocolCloseTheirOwnSocketOnly(t *testing.T) {
	const text, continuation, ping, end = 0x81, 0x80, 0x89, 0x88
	const protocolError, invalidData, tooBig = 1002, 1007, 1009
	large := strings.Repeat("x", 40<<10)
	cases := []struct {
		name, frames string
		code         uint16
	}{
		{"not masked", "\x81\x02hi", protocolError},
		{"reserved bits", masked(0xC1, ""), protocolError},
		{"reserved opcode", masked(0x83, ""), protocolError},
		{"reserved control opcode", masked(0x8B, ""), protocolError},
		{"continuation of nothing", masked(continuation, "x"), protocolError},
		{"message inside a message", masked(0x01, "a") + masked(text, "b"), protocolError},
		{"control frame in fragments", masked(0x09, "x"), protocolError},
		{"control frame of 126 bytes", masked(ping, large[:126]), protocolError},
		{"length with its top bit set", "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00", protocolError},
		{"close frame of one byte", masked(end, "x"), protocolError},
		{"close code that must not be sent", masked(end, "\x03\xed"), protocolError},
		{"text that is not UTF-8", masked(text, "\xff"), invalidData},
		{"a message that is not known", masked(text, "hello"), protocolError},
		{"one byte too many", masked(text, strings.Repeat("x", 64<<10+1)), tooBig},
		{"an exbibyte announced", "\x82\xff\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", tooBig},
		{"too much in fragments", masked(0x01, large) + masked(continuation, large), tooBig},
	}
	watchedWhile(t, func(w *world) {
		path := w.path("good", "")
		for _, c := range cases {
			late := w.shake(path, "")
			late.send(c.frames)
			early := w.shake(path, c.frames)
			for how, conn := range map[string]*raw{"after": late, "with": early} {
				if code, reason := conn.closing(); code != c.code || reason == "" {
					t.Errorf("%s, sent %s the handshake: closed with %d %q, want %d", c.name, how, code, reason, c.code)
				}
			}
		}
	})
}

func TestFramesThatComeWithTheHandshakeAreRead(t *testing.T) {
	watchedWhile(t, func(w *world) {
		path := w.path("good", "")
		frame := masked(0x89, "early")
		for cut := range len(frame) + 1 {
			c := w.shake(path, frame[:cut])
			c.send(frame[cut:])
			if opcode, payload := c.frame(); opcode != 10 || payload != "early" {
				t.Errorf("%d bytes came with the handshake: got opcode %d, %q, want the Pong", cut, opcode, payload)
			}
			_ = c.Close()
		}
	})
}

func TestHalfOpenHandshakesAreCutOffInTimeAndDelayNobody(t *testing.T) {
	const (
		flood       = 2000
		headerLimit = 10 * time.Second
		slack       = 5 * time.Second
	)
	watchedWhile(t, func(w *world) {
		request := "GET " + w.path("good", "") + " HTTP/1.1\r\n" + upgradeHeaders
		var ended atomic.Int64
		var all sync.WaitGroup
		began := time.Now()
		for i := range flood {
			c := w.call()
			c.send(request[:i%len(request)])
			all.Go(func() {
				if answer, err := io.ReadAll(c); err != nil && !isReset(err) || len(answer) > 0 && !bytes.HasPrefix(answer, []byte("HTTP/1.1 4")) {
					t.Errorf("a handshake of %d bytes, of %d, was answered with %q, %v", i%len(request), len(request), answer, err)
				}
				ended.Add(1)
			})
		}
		all.Go(func() { dribble(t, w.call(), request) })
		socket := w.fleet("good", "", 1, anyFirst)
		eventually(t, "a new socket gets events", func() bool { return had(socket) > 50 })
		if n := ended.Load(); n > 0 {
			t.Errorf("%d half-open handshakes had ended already: the flood did not happen", n)
		}
		all.Wait()
		if took := time.Since(began); took > headerLimit+slack || took < headerLimit {
			t.Errorf("the last half-open handshake was cut off after %v, want %v", took, headerLimit)
		}
		expectHealthy(t, "the socket opened meanwhile", socket.Snapshot())
	}, "EDGE__LIMITS__HALF_OPEN=0", "EDGE__LIMITS__HALF_OPEN_PER_ADDRESS=0")
}

// dribble sends a request so slowly, but without a longer pause, that it never ends.
func dribble(t *testing.T, c *raw, request string) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		// The request line and whole headers first, then one header without an end.
		text := "x"
		if i == 0 {
			text = request + "X: "
		}
		if _, err := c.Write([]byte(text)); err != nil {
			if isReset(err) {
				return
			}
			t.Errorf("a slow request ended with %v", err)
			return
		}
		<-tick.C
	}
}
