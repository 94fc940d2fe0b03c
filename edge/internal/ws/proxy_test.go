package ws

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// proxyHeaders are what may stand before a request, and the client that it names: empty
// for none, "error" for what is refused.
var proxyHeaders = []struct{ name, header, client string }{
	{"1, IPv4", "PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n", "192.0.2.1:4711"},
	{"1, IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n", "[2001:db8::1]:4711"},
	{"1, unknown", "PROXY UNKNOWN\r\n", ""},
	{"1, unknown with a rest", "PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", ""},
	{"1, wrong family", "PROXY TCP4 2001:db8::1 2001:db8::2 4711 443\r\n", "error"},
	{"1, bad port", "PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n", "error"},
	{"1, words missing", "PROXY TCP4 192.0.2.1\r\n", "error"},
	{"1, UDP", "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", "error"},
	{"1, too long", "PROXY UNKNOWN " + strings.Repeat("x", 100) + "\r\n", "error"},
	{"1, cut", "PROXY TCP4 192.0.2.1 19", "error"},
	{"2, IPv4", proxySignature + "\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x12\x67\x01\xbb", "192.0.2.1:4711"},
	{"2, IPv4 with extensions", proxySignature + "\x21\x11\x00\x10\xc0\x00\x02\x01\xc0\x00\x02\x02\x12\x67\x01\xbb\x04\x00\x01\x00", "192.0.2.1:4711"},
	{"2, IPv6", proxySignature + "\x21\x21\x00\x24\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01" + strings.Repeat("\x00", 16) + "\x12\x67\x01\xbb", "[2001:db8::1]:4711"},
	{"2, local", proxySignature + "\x20\x00\x00\x00", ""},
	{"2, UNIX", proxySignature + "\x21\x31\x00\x01\x00", ""},
	{"2, addresses cut", proxySignature + "\x21\x11\x00\x04\xc0\x00\x02\x01", "error"},
	{"2, body cut", proxySignature + "\x21\x11\x00\x0c\xc0\x00", "error"},
	{"2, unknown command", proxySignature + "\x22\x11\x00\x00", "error"},
	{"2, version 3", proxySignature + "\x31\x11\x00\x00", "error"},
	{"2, too long", proxySignature + "\x21\x11\xff\xff" + strings.Repeat("\x00", 0xffff), "error"},
	{"none", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "error"},
	{"nothing", "", "error"},
}

func TestProxyHeadersNameTheClient(t *testing.T) {
	for _, c := range proxyHeaders {
		t.Run(c.name, func(t *testing.T) {
			in := strings.NewReader(c.header + "rest")
			if strings.HasSuffix(c.name, " cut") {
				in = strings.NewReader(c.header)
			}
			client, err := readProxyHeader(in)
			if c.client == "error" {
				if err == nil {
					t.Errorf("taken: %v", client)
				}
				return
			}
			if err != nil || client.IsValid() != (c.client != "") || client.IsValid() && client.String() != c.client {
				t.Errorf("got %v, %v", client, err)
			}
			if rest, _ := io.ReadAll(in); string(rest) != "rest" {
				t.Errorf("%q is left behind the header", rest)
			}
		})
	}
}

// FuzzProxyHeader looks for headers that panic, that read beyond their end, or whose
// address changes with what follows.
func FuzzProxyHeader(f *testing.F) {
	for _, c := range proxyHeaders {
		f.Add([]byte(c.header))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytes.NewReader(data)
		client, err := readProxyHeader(in)
		if err != nil {
			return
		}
		header := data[:len(data)-in.Len()]
		if len(header) > len(proxySignature)+4+maxProxyBody {
			t.Fatalf("header of %d bytes", len(header))
		}
		again, err := readProxyHeader(io.MultiReader(bytes.NewReader(header), nothingMore{t}))
		if err != nil || again != client {
			t.Fatalf("%v, then %v, %v", client, again, err)
		}
	})
}

// nothingMore fails the test when it is read.
type nothingMore struct{ t *testing.T }

func (r nothingMore) Read([]byte) (int, error) {
	r.t.Error("read behind the header")
	return 0, io.EOF
}

// behindProxy accepts one connection that begins with text.
func behindProxy(t *testing.T, trusted bool, text string) (conn net.Conn, refused chan error) {
	t.Helper()
	plain, err := Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused = make(chan error, 1)
	listener := BehindProxy(plain, func(netip.Addr) bool { return trusted },
		func(_ net.Addr, err error) { refused <- err })
	defer func() { _ = listener.Close() }()
	client, err := net.Dial("tcp", plain.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	if _, err := io.WriteString(client, text); err != nil {
		t.Fatal(err)
	}
	if conn, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, refused
}

func TestAConnectionBehindAProxyIsTheClients(t *testing.T) {
	conn, _ := behindProxy(t, true, "PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\nhello")
	if got := conn.RemoteAddr().String(); got != "192.0.2.1:4711" {
		t.Errorf("remote address %s", got)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestPeersThatAreNotTrustedAndThoseWithoutAHeaderAreClosed(t *testing.T) {
	for _, c := range []struct {
		trusted   bool
		text, why string
	}{
		{false, "PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\nhello", "no trusted proxy"},
		{true, "GET / HTTP/1.1\r\n\r\n", "no PROXY protocol header"},
	} {
		conn, refused := behindProxy(t, c.trusted, c.text)
		if got := conn.RemoteAddr().String(); strings.HasPrefix(got, "192.0.2.1:") {
			t.Errorf("remote address %s is believed", got)
		}
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read: %v", err)
		}
		if err := <-refused; !strings.Contains(err.Error(), c.why) {
			t.Errorf("refused with %v, want %s", err, c.why)
		}
	}
}
