package ws

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"canopy/edge/internal/certtest"
)

// overTLS tells a test that runs inside TestOverTLS, by its name.
func overTLS(t testing.TB) bool { return strings.HasPrefix(t.Name(), "TestOverTLS/") }

// tcpOf is the TCP connection of a client.
func tcpOf(conn net.Conn) *net.TCPConn {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	return conn.(*net.TCPConn)
}

// TestOverTLS runs the tests of connections again: serve and dialRaw put TLS in between.
func TestOverTLS(t *testing.T) {
	for _, test := range []func(*testing.T){
		TestMessagesOfEverySizeAreEchoed,
		TestFragmentsAreEchoedAsOneMessage,
		TestPingsAreAnsweredAndPongsHeard,
		TestTooBigMessagesAreRefusedWithACloseFrame,
		TestFramesSentWithTheHandshakeAreReadFirstAndInOrder,
		TestEarlyCloseFrameEndsTheConnection,
		TestFramesThatComeByteByByteAreRead,
		TestManyConnectionsEachAreGoneOnce,
		TestEverythingWrittenToAStalledReaderIsReportedOnceItReads,
		TestConcurrentWritersDoNotInterleaveFrames,
		TestFullWriteBufferEndsTheConnection,
		TestCutFromAnotherGoroutineEndsTheConnectionWithoutAnError,
		TestCutDropsWhatTheKernelHasNotTaken,
		TestNothingIsHandedOverAfterCut,
		TestConnectionCutBeforeItIsAdoptedIsClosed,
		TestCloseWriteLetsThePeerEndIt,
		TestPeerThatVanishesIsGoneWithACause,
		TestLastHeardFollowsTheEnginesClock,
		TestStopEndsIdleConnections,
		TestHandlerThatPanicsLosesItsConnectionOnly,
	} {
		name := runtime.FuncForPC(reflect.ValueOf(test).Pointer()).Name()
		t.Run(name[strings.LastIndexByte(name, '.')+1:], test)
	}
}

// dialTLS opens a socket with a TLS of its own choice.
func dialTLS(t *testing.T, addr string, config *tls.Config) *tls.Conn {
	t.Helper()
	config.InsecureSkipVerify = true
	conn, err := tls.Dial("tcp", addr, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	upgrade(t, conn, nil)
	return conn
}

func TestSocketsOfEveryTLSVersionAreEchoed(t *testing.T) {
	s := serveOver(t, true, Config{}, nil)
	for name, config := range map[string]*tls.Config{
		"1.3":     {MinVersion: tls.VersionTLS13},
		"1.2 GCM": {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}},
		"1.2 CBC": {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}},
	} {
		conn := dialTLS(t, s.addr, config)
		for _, size := range []int{1, 16 << 10, 60_000} {
			message := strings.Repeat("x", size)
			if _, err := conn.Write(frame(fin|0x1, message)); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, HeaderLen(size)+size)
			if _, err := io.ReadFull(conn, got); err != nil || string(got[HeaderLen(size):]) != message {
				t.Fatalf("%s: %d bytes: %v", name, size, err)
			}
		}
	}
}

// byteByByte is a client's connection that sends each byte in a segment of its own.
type byteByByte struct{ net.Conn }

func (c byteByByte) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := c.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

func TestRecordsThatComeByteByByteAreRead(t *testing.T) {
	s := serveOver(t, true, Config{}, nil)
	tcp, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(byteByByte{tcp}, certtest.Client())
	t.Cleanup(func() { _ = conn.Close() })
	upgrade(t, conn, nil)
	for range 3 {
		if _, err := conn.Write(frame(fin|0x1, "slow")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 6)
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != "\x81\x04slow" {
			t.Fatalf("got %q, error %v", got, err)
		}
	}
}

func TestRecordsThatAreForgedEndTheConnectionWithACause(t *testing.T) {
	s := serveOver(t, true, Config{}, nil)
	conn := dialTLS(t, s.addr, &tls.Config{})
	e := s.next(t)
	forged := append([]byte{23, 3, 3, 0, 32}, make([]byte, 32)...)
	if _, err := conn.NetConn().Write(forged); err != nil {
		t.Fatal(err)
	}
	wait(t, e.ended, "OnGone")
	if err := e.why.Load().(goneError).error; err == nil || !strings.Contains(err.Error(), "bad record MAC") {
		t.Errorf("gone with %v", err)
	}
}

func TestAClientThatEndsTLSIsGone(t *testing.T) {
	s := serveOver(t, true, Config{}, nil)
	conn := dialTLS(t, s.addr, &tls.Config{})
	e := s.next(t)
	if err := conn.CloseWrite(); err != nil { // a close_notify, and TCP stays open
		t.Fatal(err)
	}
	wait(t, e.ended, "OnGone")
	if err := e.why.Load().(goneError).error; !errors.Is(err, io.EOF) {
		t.Errorf("gone with %v", err)
	}
}

func TestACloseFrameOverTLSIsFollowedByTheEndOfTLS(t *testing.T) {
	s := serveOver(t, true, Config{}, nil)
	conn := dialTLS(t, s.addr, &tls.Config{})
	if _, err := conn.Write(frame(fin|0x8, "\x03\xe8")); err != nil {
		t.Fatal(err)
	}
	// io.ReadAll fails with io.ErrUnexpectedEOF unless a close_notify comes.
	if got, err := io.ReadAll(conn); err != nil || string(got) != "\x88\x02\x03\xe8" {
		t.Errorf("got %q, error %v", got, err)
	}
}

// BenchmarkTLSSocketAtRest reports the heap that the edge's side of an idle socket takes with
// TLS: what is given back when all are cut while their clients stay.
func BenchmarkTLSSocketAtRest(b *testing.B) {
	s := serveOver(b, true, Config{}, nil)
	clients := make([]*tls.Conn, b.N)
	served := make([]*echo, b.N)
	for i := range clients {
		conn, err := tls.Dial("tcp", s.addr, certtest.Client())
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		upgrade(b, conn, frame(fin|0x1, "hello"))
		if _, err := io.ReadFull(conn, make([]byte, 7)); err != nil {
			b.Fatal(err)
		}
		clients[i], served[i] = conn, s.next(b)
	}
	before := heap()
	for i, e := range served {
		e.Cut()
		<-e.ended
		served[i] = nil
	}
	s.mu.Lock()
	s.conns = nil
	s.mu.Unlock()
	b.ReportMetric(float64(before-heap())/float64(b.N), "heap-B/socket")
	runtime.KeepAlive(clients)
}
