package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/zap"

	"canopy/edge/internal/certtest"
	"canopy/shared/config"
)

// overTLS tells a test that runs inside TestOverTLS, by its name.
func overTLS(t *testing.T) bool { return strings.HasPrefix(t.Name(), "TestOverTLS/") }

// url is where the edge serves sockets.
func (s *stack) url() string {
	if s.tls {
		return "wss://" + s.http
	}
	return "ws://" + s.http
}

// secure gives the edge a certificate.
func (s *stack) secure(cfg *config.Config) {
	folder := s.t.TempDir()
	cfg.HTTP.CertBundleFile, cfg.HTTP.KeyFile = filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key")
	s.renew(cfg.HTTP, 1)
}

// renew writes a new certificate with a serial number.
func (s *stack) renew(h config.HTTP, serial int64) {
	s.t.Helper()
	certificate, key := certtest.New(s.t, serial)
	for name, content := range map[string][]byte{h.CertBundleFile: certificate, h.KeyFile: key} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

// dialTCP opens a connection for a request by hand, with TLS if the edge expects it.
func (s *stack) dialTCP() net.Conn {
	s.t.Helper()
	c, err := net.Dial("tcp", s.http)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.tls {
		c = tls.Client(c, certtest.Client())
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// tcpOf is the TCP connection of a client.
func tcpOf(c net.Conn) *net.TCPConn {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	return c.(*net.TCPConn)
}

// TestOverTLS runs tests again on an edge that ends TLS itself.
func TestOverTLS(t *testing.T) {
	for _, test := range []func(*testing.T){
		TestEventsArriveInOrderFromTheMomentOfThe101,
		TestDrainClosesEverySocketWith1001AndItsCursor,
		TestClientsThatResetDuringTheHandshakeAreNotCounted,
		TestHandshakesThatComeAtOnceDoNotExceedTheLimit,
		TestARequestWhoseBodyNeverComesIsAnsweredAndEnds,
		TestHalfOpenConnectionsDoNotKeepSocketsFromTheirCloseFrame,
		TestASilentClientIsPingedThenDroppedAndOneThatAnswersStays,
		TestFramesBehindTheHandshakeAreRead,
		TestPingsOfAClientThatDoesNotReadCostBoundedMemory,
		TestOpening,
		TestWhatClientsSend,
		TestASlowConsumerIsToldWhereItStopped,
		TestPlacesAreGivenBackHoweverASocketEnds,
	} {
		name := runtime.FuncForPC(reflect.ValueOf(test).Pointer()).Name()
		t.Run(name[strings.LastIndexByte(name, '.')+1:], test)
	}
}

// serial is that of the certificate which a new connection is shown.
func (s *stack) serial() int64 {
	s.t.Helper()
	c, err := tls.Dial("tcp", s.http, certtest.Client())
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

func TestARenewedCertificateIsShownWithoutARestart(t *testing.T) {
	var files config.HTTP
	s := startEdge(t, func(cfg *config.Config) {
		(&stack{t: t}).secure(cfg)
		files = cfg.HTTP
	})
	before := s.dial("/open-app", nil)
	if n := s.serial(); n != 1 {
		t.Fatalf("serial number %d, want 1", n)
	}
	if err := os.WriteFile(files.CertBundleFile, []byte("half a renewal"), 0o600); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); s.metricOr0(`canopy_edge_certificate_reloads_total{outcome="refused"}`) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the bad certificate was not looked at")
		}
	}
	if n := s.serial(); n != 1 {
		t.Fatalf("serial number %d while the files are bad, want 1", n)
	}
	s.renew(files, 2)
	for deadline := time.Now().Add(patience); s.serial() != 2; {
		if time.Now().After(deadline) {
			t.Fatal("the new certificate is not shown")
		}
	}
	s.publish("open-app", "", 1)
	if r := read(t, before); r.Data.N != 1 {
		t.Errorf("the socket that was open got %+v", r)
	}
}

func TestOldVersionsOfTLSAndHTTP2AreRefused(t *testing.T) {
	s := startEdge(t, func(cfg *config.Config) { (&stack{t: t}).secure(cfg) })
	old := certtest.Client()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if c, err := tls.Dial("tcp", s.http, old); err == nil {
		_ = c.Close()
		t.Error("TLS 1.1 is taken")
	}
	other := certtest.Client()
	other.NextProtos = []string{"h2"}
	if c, err := tls.Dial("tcp", s.http, other); err == nil {
		_ = c.Close()
		t.Error("HTTP/2 is taken")
	}
}

func TestPlainHTTPWhereTLSIsExpectedIsToldSo(t *testing.T) {
	s := startEdge(t, func(cfg *config.Config) { (&stack{t: t}).secure(cfg) })
	c, err := net.Dial("tcp", s.http)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, handshake); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if text := string(answer); !strings.HasPrefix(text, "HTTP/1.1 400 ") || !strings.Contains(text, "use wss") {
		t.Errorf("got %q, %v", text, err)
	}
}

func TestACertificateThatCannotBeReadStopsTheStart(t *testing.T) {
	cfg, err := config.Read("", nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.HTTP.BindAddr, cfg.Runtime.Health.BindAddr = "127.0.0.1:0", "127.0.0.1:0"
	cfg.HTTP.CertBundleFile, cfg.HTTP.KeyFile = "no.crt", "no.key"
	if err := Run(context.Background(), cfg, zap.NewNop(), nil); err == nil || !strings.Contains(err.Error(), "no.crt") {
		t.Errorf("started: %v", err)
	}
}

// closedWith reads until the socket is closed and gives its close frame.
func closedWith(t *testing.T, c *websocket.Conn) websocket.CloseError {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		_, _, err := c.Read(ctx)
		if err == nil {
			continue
		}
		var closed websocket.CloseError
		if !errors.As(err, &closed) {
			t.Errorf("ended with %v, want a close frame", err)
		}
		return closed
	}
}

// ask sends a request for a socket and gives the answer and its body. A path is sent as it
// is. Headers replace those of a good handshake.
func (s *stack) ask(method, target string, header http.Header) (*http.Response, string) {
	s.t.Helper()
	r, err := http.NewRequest(method, "http://"+s.http, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.tls {
		r.URL.Scheme = "https"
	}
	path, query, _ := strings.Cut(target, "?")
	r.URL.Opaque = path // as it is, bad encodings too
	if strings.HasPrefix(path, "//") {
		r.URL.Opaque = "//" + s.http + path // or it would be taken for a host
	}
	r.URL.RawQuery = query
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="}}
	for k, v := range header {
		r.Header[http.CanonicalHeaderKey(k)] = v
		if k == "Host" {
			r.Host = v[0]
			delete(r.Header, k)
		}
	}
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: certtest.Client()}
	defer transport.CloseIdleConnections()
	answer, err := transport.RoundTrip(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }() // and the socket, if it was opened
	if answer.StatusCode == http.StatusSwitchingProtocols {
		return answer, ""
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer, string(body)
}

// tryDial opens a socket that may be refused.
func (s *stack) tryDial(path string, header http.Header) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: certtest.Client()}}
	c, _, err := websocket.Dial(ctx, s.url()+path, &websocket.DialOptions{HTTPClient: client, HTTPHeader: header})
	if err == nil {
		s.t.Cleanup(func() { _ = c.CloseNow() })
	}
	return c, err
}

// write sends a message.
func (s *stack) write(c *websocket.Conn, message string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
		s.t.Fatal(err)
	}
}

// behind opens a connection as a proxy does: header first, then TLS if the edge expects it.
func (s *stack) behind(header string) net.Conn {
	s.t.Helper()
	c, err := net.Dial("tcp", s.http)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, header); err != nil {
		s.t.Fatal(err)
	}
	if s.tls {
		return tls.Client(c, certtest.Client())
	}
	return c
}

// handshakeOn asks for a socket on a connection and gives the status. It stays open.
func (s *stack) handshakeOn(c net.Conn) int {
	s.t.Helper()
	if _, err := io.WriteString(c, handshake); err != nil {
		s.t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.StatusCode
}
