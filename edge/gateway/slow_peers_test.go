package gateway

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"canopy/shared/config"
)

// slowPeerBytes is what a peer may hold of the edge's memory, on average, that sends its
// first bytes one by one: half of it is the stack of a goroutine of net/http's, which under
// the race detector is twice as large.
const slowPeerBytes = 64 << 10

// slowPeers are many connections that send text one byte a second.
type slowPeers struct {
	text  string
	ends  time.Duration // after which they must be closed
	conns []net.Conn
}

// send sends byte n of each. Peers that are closed already do not matter.
func (p *slowPeers) send(n int) {
	for _, c := range p.conns {
		_, _ = c.Write([]byte{p.text[n%len(p.text)]})
	}
}

// endBy waits for the end of all, which must come before a time that is not over yet.
func (p *slowPeers) endBy(t *testing.T, name string, at time.Time) {
	open := 0
	for _, c := range p.conns {
		_ = c.SetReadDeadline(at)
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			open++
		}
	}
	if open > 0 {
		t.Errorf("%s: %d of %d connections are still open", name, open, len(p.conns))
	}
}

// TestPeersThatSendAByteASecondEndInTimeAndHoldLittle has 1,000 of each kind, or as many as
// CANOPY_TEST_SLOW says.
func TestPeersThatSendAByteASecondEndInTimeAndHoldLittle(t *testing.T) {
	n := setting(t, "CANOPY_TEST_SLOW", 1000)
	all := map[string]*slowPeers{
		"in the TLS handshake":  {text: "\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03", ends: readHeaderTimeout},
		"in the request":        {text: "GET /open-app HTTP/1.1\r\nHost: canopy", ends: readHeaderTimeout},
		"in the proxy's header": {text: "PROXY TCP4 192.0.2.1 192", ends: 5 * time.Second},
	}
	edges := map[string]*stack{
		"in the TLS handshake": startEdge(t, func(cfg *config.Config) {
			(&stack{t: t}).secure(cfg)
		}),
		"in the request":        startEdge(t, nil),
		"in the proxy's header": startEdge(t, func(cfg *config.Config) { cfg.HTTP.ProxyProtocol = true }),
	}
	before := held()
	start := time.Now()
	for name, peers := range all {
		for range n {
			c, err := net.Dial("tcp", edges[name].http)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			peers.conns = append(peers.conns, c)
		}
	}
	opened := time.Now()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for i := range 4 { // 5 s are what a proxy has
		for _, peers := range all {
			peers.send(i)
		}
		if i < 3 {
			<-second.C
		}
	}
	each := (held() - before) / int64(n*len(all))
	t.Logf("%d connections hold %d bytes each after %v, %v to open them", n*len(all), each, time.Since(start), opened.Sub(start))
	if each > slowPeerBytes {
		t.Errorf("each holds %d bytes, want %d at most", each, slowPeerBytes)
	}
	// Those first that must end first, since what is looked at later cannot be told then.
	for _, name := range []string{"in the proxy's header", "in the request", "in the TLS handshake"} {
		all[name].endBy(t, name, opened.Add(all[name].ends+slack))
	}
	s := edges["in the request"]
	if status, body := s.open("/open-app"); status != 101 {
		t.Errorf("a socket after that: %d %s", status, body)
	}
}

// held is the memory of this process: heap and stacks.
func held() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
