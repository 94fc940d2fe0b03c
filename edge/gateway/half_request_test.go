package gateway

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"canopy/edge/internal/certtest"
	"canopy/shared/config"
)

// halfRequestBytes is what a connection that is no socket yet may hold of the edge's memory,
// as the README states it. Under the race detector stacks are twice as large and more.
const halfRequestBytes = 110 << 10

// halfRequests are what hostile clients send and never finish, in the clear or over TLS.
func halfRequests() map[string]string {
	const line = "GET /open-app HTTP/1.1\r\nHost: canopy\r\n"
	many := func(format string, size int) string {
		var b strings.Builder
		b.WriteString(line)
		for n := 0; b.Len() < size; n++ {
			fmt.Fprintf(&b, format, n)
		}
		return b.String()
	}
	lines := func(n int, format string) string {
		var b strings.Builder
		b.WriteString(line)
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	const most = 31 << 10
	return map[string]string{
		"nothing":                     "",
		"one byte":                    "G",
		"tiny header lines":           many("%x:\r\n", 30<<10),
		"tiny lines with bare LF":     many("%x:\n", 30<<10),
		"tiny continuation lines":     line + "a: b\r\n" + strings.Repeat(" c\r\n", 7000),
		"one name with many values":   many("a:%x\r\n", 30<<10),
		"as many lines as there may":  lines(99, "%04x:"+strings.Repeat("x", 290)+"\r\n"),
		"two thirds of the lines":     lines(66, "%04x:"+strings.Repeat("x", 440)+"\r\n"),
		"one long header line":        line + "a: " + strings.Repeat("x", most),
		"a long name":                 line + strings.Repeat("x", most),
		"a long request line":         "GET /" + strings.Repeat("x", most),
		"a long request line decoded": "GET /" + strings.Repeat("%41", most/3) + " HTTP/1.1\r\nHost: a\r\nb:",
		"a long query":                "GET /open-app?" + strings.Repeat("a=%41&", most/6) + " HTTP/1.1\r\nHost: a\r\nb:",
		"a body that does not come":   "POST /open-app HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\n\r\n" + strings.Repeat("x", 64<<10),
		"chunks and trailers":         "POST /open-app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("a:\r\n", 16<<10),
		"a body after an invitation":  "POST /open-app HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n",
	}
}

// halfHellos are the same for TLS.
func halfHellos(t *testing.T) map[string]string {
	hello := clientHello(t)
	record := func(length, announced int) string {
		return string([]byte{22, 3, 1, byte(announced >> 8), byte(announced)}) + strings.Repeat("\x01\x00\xff\xff", length/4)
	}
	return map[string]string{
		"half a hello":               hello[:len(hello)/2],
		"a hello and no more":        hello,
		"the start of a long record": record(16, 16<<10),
		"most of a long record":      record(16<<10-8, 16<<10),
		"a hello of 64 KiB, unended": strings.Repeat(record(16<<10, 16<<10), 3) + record(12<<10, 12<<10),
		"a hello in tiny records":    "\x16\x03\x01\x00\x04\x01\x00\xff\xf0" + strings.Repeat("\x16\x03\x01\x00\x01x", 5000),
		"records without content":    strings.Repeat("\x16\x03\x01\x00\x00", 10),
		"a hello of 7 KiB, unended":  "\x16\x03\x01\x1c\x00\x01\x00\xff\xf0" + strings.Repeat("x", 7<<10-8),
	}
}

// clientHello is what a client sends first.
func clientHello(t *testing.T) string {
	t.Helper()
	ours, theirs := net.Pipe()
	defer func() { _, _ = ours.Close(), theirs.Close() }()
	go func() { _ = tls.Client(theirs, certtest.Client()).Handshake() }() // ends with the pipe
	b := make([]byte, 4<<10)
	n, err := ours.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// hostile opens n connections, each of which sends text, behind a TLS handshake if secure.
func (s *stack) hostile(n int, text string, secure bool) (conns []net.Conn) {
	s.t.Helper()
	for range n {
		c, err := net.Dial("tcp", s.http)
		if err != nil {
			s.t.Fatal(err)
		}
		conns = append(conns, c)
		_ = c.SetDeadline(time.Now().Add(patience))
		to := io.Writer(c)
		if secure {
			// Not kept: what it holds would count for the edge.
			to = tls.Client(c, certtest.Client())
		}
		if _, err := io.WriteString(to, text); err != nil && !refusedToRead(err) {
			s.t.Fatal(err)
		}
		if secure && strings.HasPrefix(text, "G") {
			// The start of a large record: room is made for all of it.
			_, _ = c.Write([]byte{23, 3, 3, 0x40, 0x11}) // the edge may have refused the request
		}
	}
	return conns
}

// refusedToRead tells whether the edge has closed the connection, as it should do early.
func refusedToRead(err error) bool {
	var failed *net.OpError
	return errors.As(err, &failed) && !failed.Timeout()
}

// TestHalfARequestHoldsLittle has 100 of each kind, or as many as CANOPY_TEST_HALF says.
func TestHalfARequestHoldsLittle(t *testing.T) {
	n := setting(t, "CANOPY_TEST_HALF", 100)
	for _, secure := range []bool{false, true} {
		s := startEdge(t, func(cfg *config.Config) {
			cfg.Edge.Limits.HalfOpenPerAddress = 0
			if secure {
				(&stack{t: t}).secure(cfg)
			}
		})
		kinds := map[string]string{"a proxy's header": "PROXY TCP4 192.0.2.1 "}
		if secure {
			maps.Copy(kinds, halfHellos(t))
		}
		measure := func(name, text string, overTLS bool) {
			before := settled(t)
			conns := s.hostile(n, text, overTLS)
			each := (settled(t) - before) / int64(n)
			t.Logf("TLS %5v: %-30s %7d bytes", secure, name, each)
			if each > halfRequestBytes*racing {
				t.Errorf("TLS %v: %s: each holds %d bytes, want %d at most", secure, name, each, halfRequestBytes*racing)
			}
			for _, c := range conns {
				_ = c.Close()
			}
			s.await("the end of all", func() bool { return s.metricOr0("canopy_edge_half_open") == 0 })
		}
		for _, name := range slices.Sorted(maps.Keys(kinds)) {
			measure(name, kinds[name], false)
		}
		all := halfRequests()
		for _, name := range slices.Sorted(maps.Keys(all)) {
			measure(name, all[name], secure)
		}
	}
}

// settled is what this process holds once that changes no more: the edge has read what was
// sent.
func settled(t *testing.T) int64 {
	t.Helper()
	deadline := time.Now().Add(patience)
	last, same := held(), 0
	for same < 4 {
		now := held()
		if same++; max(now, last)-min(now, last) > 64<<10 {
			same = 0
		}
		last = now
		if time.Now().After(deadline) {
			t.Fatal("what is held changes all the time")
		}
	}
	return last
}
