package gateway

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"canopy/shared/config"
)

// rawDial opens a socket by hand: nothing answers Pings on it.
func (s *stack) rawDial(path, behind string) (net.Conn, *bufio.Reader) {
	s.t.Helper()
	c := s.dialTCP()
	_ = c.SetDeadline(time.Now().Add(patience))
	request := "GET " + path + " HTTP/1.1\r\nHost: canopy\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n" + behind
	if _, err := io.WriteString(c, request); err != nil {
		s.t.Fatal(err)
	}
	in := bufio.NewReader(c)
	answer, err := http.ReadResponse(in, nil)
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		s.t.Fatalf("open %s by hand: %v %v", path, answer, err)
	}
	return c, in
}

func TestASilentClientIsPingedThenDroppedAndOneThatAnswersStays(t *testing.T) {
	s := startEdge(t, func(cfg *config.Config) {
		cfg.Edge.Ping = config.Ping{Interval: time.Second, Timeout: time.Second}
	})
	_, silent := s.rawDial("/open-app", "")
	c, answering := s.rawDial("/open-app", "")
	ping := make([]byte, 2)
	if _, err := io.ReadFull(silent, ping); err != nil || ping[0] != 0x89 || ping[1] != 0 {
		t.Fatalf("the silent client got %x, %v; want a Ping", ping, err)
	}
	for range 3 { // so for longer than a silent one lives
		if _, err := io.ReadFull(answering, ping); err != nil || ping[0] != 0x89 {
			t.Fatalf("the answering client got %x, %v; want a Ping", ping, err)
		}
		if _, err := c.Write([]byte{0x8a, 0x80, 1, 2, 3, 4}); err != nil {
			t.Fatal(err)
		}
	}
	if rest, err := io.ReadAll(silent); err != nil || len(rest) > 2 {
		t.Errorf("the silent client got %x, %v; want the end of the connection", rest, err)
	}
	s.publish("open-app", "", 1)
	if b, err := answering.ReadByte(); err != nil || b&0x81 != 0x81 {
		t.Errorf("the answering client got %x, %v; want an event or a Ping", b, err)
	}
}

func TestAClientThatShowsLifeIsNotPinged(t *testing.T) {
	s := startEdge(t, func(cfg *config.Config) {
		cfg.Edge.Ping = config.Ping{Interval: 5 * time.Second, Timeout: time.Minute}
	})
	c, lively := s.rawDial("/open-app", "")
	_, silent := s.rawDial("/open-app", "")
	pinged := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(silent, make([]byte, 2))
		pinged <- err
	}()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for waits := true; waits; {
		select {
		case <-tick.C:
			if _, err := io.WriteString(c, masked(0x8A, "")); err != nil {
				t.Fatal(err)
			}
		case err := <-pinged:
			if err != nil {
				t.Fatalf("the silent client got no Ping: %v", err)
			}
			waits = false
		}
	}
	if _, err := io.WriteString(c, masked(0x89, "hi")); err != nil {
		t.Fatal(err)
	}
	if opcode, payload := readFrame(t, lively); opcode != 0xA || string(payload) != "hi" {
		t.Errorf("the first frame is %x %q, want the answer to the client's own Ping", opcode, payload)
	}
}

func TestFramesBehindTheHandshakeAreRead(t *testing.T) {
	s := startEdge(t, nil)
	ping := "\x89\x82\x00\x00\x00\x00hi"
	_, in := s.rawDial("/open-app", ping)
	pong := make([]byte, 4)
	if _, err := io.ReadFull(in, pong); err != nil || string(pong) != "\x8a\x02hi" {
		t.Fatalf("got %q, %v; want the Pong", pong, err)
	}
}

func TestAnUnmaskedFrameIsAnsweredWith1002BeforeTheEnd(t *testing.T) {
	s := startEdge(t, nil)
	_, in := s.rawDial("/open-app", "\x81\x02hi")
	b, err := io.ReadAll(in)
	if err != nil || len(b) < 4 || b[0] != 0x88 || int(b[2])<<8|int(b[3]) != 1002 {
		t.Fatalf("got %q, %v; want a close frame with 1002", b, err)
	}
}

func TestPingsOfAClientThatDoesNotReadCostBoundedMemory(t *testing.T) {
	s := startEdge(t, func(cfg *config.Config) { cfg.Edge.Limits.MessagesPerSecond = 0 })
	flood := make([]byte, 0, 131*1000)
	for range 1000 {
		flood = append(append(flood, 0x89, 0x80|125, 0, 0, 0, 0), make([]byte, 125)...)
	}
	c, in := s.rawDial("/open-app", "")
	for sent := 0; sent < 8<<20; sent += len(flood) { // 8 MiB of Pings, and nothing is read
		if _, err := c.Write(flood); err != nil {
			t.Fatalf("the edge took only %d bytes: %v", sent, err)
		}
	}
	if held := s.metric("canopy_edge_socket_bytes"); held > 64<<10 {
		t.Errorf("%v bytes wait for one socket", held)
	}
	got, err := in.Discard(127 * 1000)
	if err != nil {
		t.Errorf("after %d bytes of Pongs: %v", got, err)
	}
}

func TestAMessageThatIsNeverFinishedClosesItsSocket(t *testing.T) {
	s := startEdge(t, nil)
	c, in := s.rawDial("/open-app", "")
	begun := append([]byte{0x81, 0x80 | 126, 0xff, 0xff, 0, 0, 0, 0}, make([]byte, 60_000)...)
	if _, err := c.Write(begun); err != nil {
		t.Fatal(err)
	}
	s.await("what is held", func() bool { return s.metric("canopy_edge_unfinished_bytes") >= 60_000 })
	b, err := io.ReadAll(in)
	if err != nil || len(b) < 4 || b[0] != 0x88 || int(b[2])<<8|int(b[3]) != 1013 {
		t.Fatalf("got %q, %v; want a close frame with 1013", b, err)
	}
	if n := s.metric("canopy_edge_unfinished_total"); n != 1 {
		t.Errorf("%v are counted, want 1", n)
	}
	if n := s.metric("canopy_edge_unfinished_bytes"); n != 0 {
		t.Errorf("%v bytes are held, want none", n)
	}
}
